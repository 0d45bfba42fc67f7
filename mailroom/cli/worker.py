"""`worker` and `sweep`: sending what is due, for ever or once."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Final

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom import settings, signals
from mailroom.cli.log import log, start_log
from mailroom.cli.manual import setting
from mailroom.cli.wiring import limits, open_database, open_permits, open_transport, progress
from mailroom.db.engine import connection_string, first_line
from mailroom.errors import MailroomError
from mailroom.ops import maintenance
from mailroom.ops.maintenance import SCAN_LIMIT, log_reconciled, reconcile_all
from mailroom.queue.listener import Listener
from mailroom.settings import Settings
from mailroom.worker.shared import Shared
from mailroom.worker.sweep import Swept
from mailroom.worker.sweep import sweep as sweep_once
from mailroom.worker.worker import Worker

SWEEP_EXIT_CODES: Final = "Exit codes: 0 drained, 3 due jobs are left, 1 failed, 2 wrong settings or usage."
BatchLimit = Annotated[str | None, setting("batch_limit", "INTEGER")]
BatchTimeout = Annotated[str | None, setting("batch_timeout", "MS")]
SweepInterval = Annotated[str | None, setting("sweep_interval", "MS")]
QueueName = Annotated[str | None, setting("queue_name", "NAME")]
# Some decades; more than a timedelta of seconds has to hold.
MAX_SECONDS: Final = 1_000_000_000
LISTEN = typer.Option("--listen/--no-listen", help="Wait for notifications, or only sweep.")


def worker(
    *,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, metavar="INTEGER", help="How many senders run in this process.")
    ] = 1,
    listen: Annotated[bool, LISTEN] = True,
    batch_limit: BatchLimit = None,
    batch_timeout: BatchTimeout = None,
    sweep_interval: SweepInterval = None,
    queue_name: QueueName = None,
) -> None:
    """Send mails until stopped.

    SIGTERM, SIGINT, SIGHUP or SIGQUIT stops it. It then claims nothing more, finishes the calls in flight, settles
    them and exits 0. A second signal ends it at once.
    """
    start_log()
    given = settings.load(
        "database_url",
        "secret_key",
        batch_limit=batch_limit,
        batch_timeout=batch_timeout,
        sweep_interval=sweep_interval,
        queue_name=queue_name,
    )
    # One connection more: the look at the account.
    transport = open_transport(given, connections=concurrency + 1, output_path=given.ses_output_path)
    with open_database(given, pool_size=concurrency + 3) as engine, open_permits(given, engine, transport) as permits:
        work = Worker(
            engine,
            transport,
            key=given.signing_key,
            limits=limits(given),
            concurrency=concurrency,
            sweep_interval=given.sweep_interval,
            prune_after=given.prune_after,
            permits=permits,
        )
        run_until_stopped(work, listener(given, work) if listen else None)


def sweep(
    *,
    max_seconds: Annotated[
        float, typer.Option(min=0, max=MAX_SECONDS, metavar="SECONDS", help="Claim nothing more after this time.")
    ] = 300,
    full: Annotated[
        bool, typer.Option("--full", help="Check every token for a missing job, not only the newest tokens.")
    ] = False,
    batch_limit: BatchLimit = None,
    queue_name: QueueName = None,
) -> None:
    """Send all that is due, then exit.

    Run it from cron. It is safe beside workers and other sweeps. A signal stops it in the same way as a worker.

    First it looks for tokens that should have a job and have none, and enqueues them. That happens after the trigger
    was disabled or a backup restored.
    """
    start_log()
    given = settings.load("database_url", "secret_key", batch_limit=batch_limit, queue_name=queue_name)
    transport = open_transport(given, connections=2, output_path=given.ses_output_path)
    with open_database(given, pool_size=2) as engine, open_permits(given, engine, transport) as permits:
        shared = Shared(
            engine,
            transport,
            key=given.signing_key,
            limits=replace(limits(given), batch_timeout=timedelta(0)),
            permits=permits,
        )
        with signals.answered_by(shared.stopping.set):
            if full:
                reconcile_fully(engine, given.queue_name, stopping=shared.stopping.is_set)
            else:
                reconcile_newest(engine, given.queue_name)
            name = f"{socket.gethostname()}/{os.getpid()}/sweep"
            swept = sweep_once(shared, name=name, max_time=timedelta(seconds=max_seconds))
    if swept is Swept.REFUSED:
        raise MailroomError("SES takes no mail at present, for the reason logged above; the jobs wait")
    if swept is Swept.LEFT:
        raise typer.Exit(3)


def reconcile_newest(engine: Engine, queue: str) -> None:
    """Look at the newest tokens; what keeps that from being done does not keep mails from being sent."""
    try:
        log_reconciled(maintenance.reconcile_newest(engine, queue=queue))
    except DBAPIError as error:
        log.warning("reconcile failed, the next sweep tries again: %s", first_line(error))


def reconcile_fully(engine: Engine, queue: str, *, stopping: Callable[[], bool]) -> None:
    """Look at every token there is."""
    with progress() as tell:
        looked = found = 0
        for step in reconcile_all(engine, queue=queue):
            log_reconciled(step)
            looked, found = looked + SCAN_LIMIT, found + len(step.enqueued)
            tell(f"looked at {looked:,} tokens, enqueued {found:,}")
            if stopping():
                return


def listener(given: Settings, work: Worker) -> Listener:
    """Return the listener that wakes a worker."""
    return Listener(
        connection_string(given.listen_database_url or given.database_url),
        given.channel_name,
        healthcheck_interval=given.healthcheck_interval,
        woken=work.woken,
        ping=work.ping,
    )


def run_until_stopped(work: Worker, listening: Listener | None) -> None:
    """Run a worker until it is asked to stop."""
    with signals.answered_by(work.stop):
        work.run(listening)
