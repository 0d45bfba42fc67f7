"""`worker` and `sweep`: sending what is due, for ever or once."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from mailroom import settings, signals
from mailroom.cli.log import log, start_log
from mailroom.cli.manual import setting
from mailroom.cli.watching import Watch, counting_sweep, watching_worker
from mailroom.cli.wiring import (
    limits,
    open_permits,
    open_queue,
    progress,
    reads_events,
    running_feed,
    transport_maker,
)
from mailroom.db.engine import NAME, connection_string, first_line
from mailroom.errors import MailroomError
from mailroom.fleet.permits import Permits
from mailroom.mail.transport import Transport
from mailroom.ops import maintenance
from mailroom.ops.maintenance import SCAN_LIMIT, log_reconciled, reconcile_all
from mailroom.queue.limits import Limits
from mailroom.queue.listener import Listener
from mailroom.settings import Settings
from mailroom.worker.report import tell_of_sweep
from mailroom.worker.shared import Shared
from mailroom.worker.sweep import Swept
from mailroom.worker.sweep import sweep as sweep_once
from mailroom.worker.vitals import process_name
from mailroom.worker.worker import Worker

BatchLimit = Annotated[str | None, setting("batch_limit", "INTEGER")]
BatchTimeout = Annotated[str | None, setting("batch_timeout", "MS")]
SweepInterval = Annotated[str | None, setting("sweep_interval", "MS")]
QueueName = Annotated[str | None, setting("queue_name", "NAME")]
# Some decades; more than a timedelta of seconds has to hold.
MAX_SECONDS: Final = 1_000_000_000
# How many objects are made before young ones are looked at. A batch makes thousands, and hardly any in a cycle.
COLLECT_AFTER: Final = 10_000
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
    probe_port: Annotated[str | None, setting("probe_address", "ADDRESS")] = None,
) -> None:
    """Send mails until stopped.

    SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 or SIGUSR2 stops it. It then claims nothing more, finishes the calls in
    flight, settles them and exits 0. A second signal ends it at once.
    """
    start_log()
    given = settings.load(
        "database_url",
        "secret_key",
        batch_limit=batch_limit,
        batch_timeout=batch_timeout,
        sweep_interval=sweep_interval,
        queue_name=queue_name,
        probe_address=probe_port,
    )
    with running_worker(given, concurrency=concurrency) as work:
        spare_collector()
        run_until_stopped(work, listener(given, work) if listen else None, feeding=reads_events(given))


def spare_collector() -> None:
    """Have the garbage collector pass over all that is loaded, and run less often: it took a twelfth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


@contextlib.contextmanager
def running_worker(given: Settings, *, concurrency: int) -> Iterator[Worker]:
    """Give the worker that the settings ask for, with all that goes on beside its senders."""
    # One connection more: the look at the account.
    make_transport = transport_maker(given, connections=concurrency + 1, output_path=given.ses_output_path)
    with contextlib.ExitStack() as opened:
        watch = opened.enter_context(watching_worker(given))
        pool_size = concurrency + 3 + reads_events(given)
        engine = opened.enter_context(
            open_queue(given, pool_size=pool_size, step=watch.step, application_name=shown_name())
        )
        transport = make_transport(engine)
        permits = opened.enter_context(open_permits(given, engine, transport, see=watch.account))
        opened.enter_context(running_feed(given, engine))
        shared = shared_by_senders(given, engine, transport, permits, watch, bounded=limits(given))
        yield Worker(
            shared, concurrency=concurrency, sweep_interval=given.sweep_interval, prune_after=given.prune_after
        )


def shared_by_senders(
    given: Settings, engine: Engine, transport: Transport, permits: Permits, watch: Watch, *, bounded: Limits
) -> Shared:
    """Return what the senders share, as the settings ask for it."""
    return Shared(
        engine,
        watch.transport(transport),
        key=given.signing_key,
        limits=bounded,
        permits=permits,
        telemetry=watch.telemetry,
        vitals=watch.vitals,
    )


def shown_name() -> str:
    """Return what the server shows of this worker's connections."""
    return f"{NAME} worker {process_name()}"


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
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            show_default="no file",
            help="Write the counts to this file, for the textfile collector of node_exporter.",
        ),
    ] = None,
) -> None:
    """Send all that is due, then exit.

    Run it from cron. It is safe beside workers and other sweeps. A signal stops it in the same way as a worker.

    First it looks for tokens that should have a job and have none, and enqueues them. That happens after the trigger
    was disabled or a backup restored.
    """
    start_log()
    given = settings.load("database_url", "secret_key", batch_limit=batch_limit, queue_name=queue_name)
    with opened_sweep(given, metrics_file) as shared, signals.answered_by(shared.stopping.set):
        look_for_lost = reconcile_fully if full else reconcile_newest
        lost = look_for_lost(shared.engine, given.queue_name, stopping=shared.stopping.is_set)
        shared.vitals.reconciled = lambda: lost
        swept = sweep_once(shared, name=sweeper(), max_time=timedelta(seconds=max_seconds))
        if not shared.stopping.is_set():
            tell_fleet(shared.engine, given.queue_name)
    if swept is Swept.REFUSED:
        raise MailroomError("SES takes no mail at present, or what is left is paused: see `mailroom status`")
    if swept is Swept.LEFT:
        raise typer.Exit(3)


@contextlib.contextmanager
def opened_sweep(given: Settings, metrics_file: Path | None) -> Iterator[Shared]:
    """Give what a sweep needs, as the settings ask for it. What it counts is written to a file, if there is one."""
    make_transport = transport_maker(given, connections=2, output_path=given.ses_output_path)
    bounded = replace(limits(given), batch_timeout=timedelta(0))
    with contextlib.ExitStack() as opened:
        watch = opened.enter_context(counting_sweep(given, metrics_file))
        engine = opened.enter_context(open_queue(given, pool_size=2))
        transport = make_transport(engine)
        permits = opened.enter_context(open_permits(given, engine, transport, see=watch.account))
        yield shared_by_senders(given, engine, transport, permits, watch, bounded=bounded)


def sweeper() -> str:
    """Return by which name this sweep claims."""
    return f"{process_name()}/sweep"


def tell_fleet(engine: Engine, queue: str) -> None:
    """Have it on record that this sweep has ended, and count: where no worker lives, who looks sees what it saw.

    It comes after the mails, and what keeps it from being done fails no sweep.
    """
    try:
        trouble = tell_of_sweep(engine, queue=queue)
    except DBAPIError as error:
        trouble = first_line(error)
    if trouble:
        log.info("the count for the fleet is left to the next sweep: %s", trouble)


def reconcile_newest(engine: Engine, queue: str, **_: object) -> int:
    """Look at the newest tokens; return how many were lost.

    What keeps that from being done does not keep mails from being sent.
    """
    try:
        found = maintenance.reconcile_newest(engine, queue=queue)
    except DBAPIError as error:
        log.warning("reconcile failed, the next sweep tries again: %s", first_line(error))
        return 0
    log_reconciled(found)
    return len(found.enqueued)


def reconcile_fully(engine: Engine, queue: str, *, stopping: Callable[[], bool]) -> int:
    """Look at every token there is; return how many were lost."""
    looked = found = 0
    with progress() as tell:
        for step in reconcile_all(engine, queue=queue):
            log_reconciled(step)
            looked, found = looked + SCAN_LIMIT, found + len(step.enqueued)
            tell(f"looked at {looked:,} tokens, enqueued {found:,}")
            if stopping():
                break
    return found


def listener(given: Settings, work: Worker) -> Listener:
    """Return the listener that wakes a worker."""
    return Listener(
        connection_string(given.listen_database_url or given.database_url, application_name=shown_name()),
        given.channel_name,
        healthcheck_interval=given.healthcheck_interval,
        woken=work.woken,
        ping=work.ping,
    )


def run_until_stopped(work: Worker, listening: Listener | None, *, feeding: bool = False) -> None:
    """Run a worker until it is asked to stop."""
    with signals.answered_by(work.stop):
        work.run(listening, feeding=feeding)
