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
from mailroom.cli.wiring import limits, open_database, open_permits, open_transport, progress
from mailroom.db.engine import connection_string, first_line
from mailroom.errors import MailroomError
from mailroom.ops import maintenance
from mailroom.ops.maintenance import LOOKS, log_reconciled, reconcile_all
from mailroom.queue.listener import Listener
from mailroom.settings import Settings
from mailroom.worker.shared import Shared
from mailroom.worker.sweep import Swept
from mailroom.worker.sweep import sweep as sweep_once
from mailroom.worker.worker import Worker

BatchLimit = Annotated[str | None, typer.Option(help="Most jobs in a batch, 1 to 50; else MAILROOM_BATCH_LIMIT.")]
BatchTimeout = Annotated[
    str | None, typer.Option(help="Longest wait for a batch to fill, ms; else MAILROOM_BATCH_TIMEOUT.")
]
SweepInterval = Annotated[str | None, typer.Option(help="How often to sweep, ms; else MAILROOM_SWEEP_INTERVAL.")]
QueueName = Annotated[str | None, typer.Option(help="Which jobs to take; else MAILROOM_QUEUE_NAME.")]
# Some decades; more than a timedelta of seconds has to hold.
MAX_SECONDS: Final = 1e9
LISTEN = typer.Option("--listen/--no-listen", help="Wait for notifications, or only sweep.")


def worker(
    *,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Senders in this process.")] = 1,
    listen: Annotated[bool, LISTEN] = True,
    batch_limit: BatchLimit = None,
    batch_timeout: BatchTimeout = None,
    sweep_interval: SweepInterval = None,
    queue_name: QueueName = None,
) -> None:
    """Send mails until stopped.

    SIGTERM, SIGINT, SIGHUP or SIGQUIT: claim nothing more, finish the calls in flight, settle them, exit 0. A second
    one: exit at once.
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
    max_seconds: Annotated[float, typer.Option(min=0, max=MAX_SECONDS, help="Stop claiming after this long.")] = 300,
    full: Annotated[bool, typer.Option("--full", help="Look at every token for lost jobs, not at the newest.")] = False,
    batch_limit: BatchLimit = None,
    queue_name: QueueName = None,
) -> None:
    """Send all that is due, then exit; for cron.

    First it enqueues tokens that have no job, though they should: the trigger was disabled, or a backup restored.

    Safe beside workers and other sweeps. A signal stops it as it does a worker.

    Exit codes: 0 drained, 3 due jobs are left, 1 failed, 2 wrong settings or usage.
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
            looked, found = looked + LOOKS, found + len(step.enqueued)
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
