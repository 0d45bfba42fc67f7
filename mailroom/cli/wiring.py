"""What several commands build from the settings: an engine, a transport, limits."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import Connection, Engine

from mailroom.cli.terminal import is_writable, write_utf8
from mailroom.db import preflight
from mailroom.db.engine import NAME, UNGRANTED, check_contract, connect_engine
from mailroom.errors import DatabaseError, MailroomError, SettingsError
from mailroom.fleet.account_refresh import AccountRefresh
from mailroom.fleet.blocks import FleetPermits
from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.job import SesAccount
from mailroom.mail.debug import DebugTransport
from mailroom.ops import grants
from mailroom.queue import events, feed
from mailroom.queue.limits import MAX_CLAIM_JOBS, Limits
from mailroom.queue.verdict import GRACE, GRACE_HEARD
from mailroom.settings import Settings
from mailroom.worker.feed import READERS, Feed

if TYPE_CHECKING:
    from mailroom.ses import EventQueue, SesTransport

# Longer than a statement takes on a database in trouble; with what cancelling it may take short of the lease, which
# lasts while a claim is waited for.
ANSWER_WITHIN: Final = timedelta(seconds=20)
AskAccount = Callable[[], SesAccount]


@contextlib.contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Import in it what an extra of mailroom brings; MailroomError, which names the extra, where that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MailroomError(f"{error.name} is not installed: it comes with the extra `{extra}` of mailroom") from error


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give what tells of the progress of a long command: on a terminal, and else to nobody."""
    from rich.console import Console  # noqa: PLC0415 - 2 MB, which a worker does without

    with Console(stderr=True, markup=False).status("") as shown:
        yield shown.update


@contextlib.contextmanager
def open_database(
    settings: Settings,
    *,
    pool_size: int = 1,
    answer_within: timedelta | None = ANSWER_WITHIN,
    writes: bool = True,
    step: Callable[[], object] | None = None,
    application_name: str = NAME,
) -> Iterator[Engine]:
    """Give an engine on a database that answers and that this release may work on; DatabaseError otherwise.

    Who `writes` gets it only where what is written is kept, and what is read is all there is. `step` is called before
    whatever may hang. The server shows `application_name`.
    """
    engine = connect_engine(
        settings.database_url,
        schema=settings.schema_name,
        pool_size=pool_size,
        answer_within=answer_within,
        writes=writes,
        step=step,
        application_name=application_name,
    )
    try:
        if writes:
            preflight.check(engine)
        else:
            check_contract(engine)
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def one_snapshot(connection: Connection) -> Iterator[Connection]:
    """Give a connection on which all that is asked within the block is of one moment; then it commits each statement.

    A job that moves meanwhile is neither missed nor found twice.
    """
    yield connection.execution_options(isolation_level="REPEATABLE READ")
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")


@contextlib.contextmanager
def open_queue(settings: Settings, **how: Any) -> Iterator[Engine]:
    """Give an engine for whoever claims mails; `how` is as for `open_database`.

    Raises DatabaseError, too, where what is sent could not be put on record.
    """
    with open_database(settings, **how) as engine:
        with engine.connect() as connection:
            lacking = grants.lacking(connection, "worker", grants.VITAL)
        if lacking:
            raise DatabaseError(f"this role lacks {'; '.join(lacking)}: {UNGRANTED}")
        yield engine


def open_transport(
    settings: Settings, *, connections: int, output_path: Path | None
) -> "SesTransport | DebugTransport":
    """Return the transport that the settings ask for, for `connections` threads, for mails of no known database."""
    return transport_maker(settings, connections=connections, output_path=output_path)(None)


def transport_maker(
    settings: Settings, *, connections: int, output_path: Path | None
) -> "Callable[[Engine | None], SesTransport | DebugTransport]":
    """Return what makes that transport for mails of a database, which events then tell.

    What is wrong with the settings is said at once, before there is a database. Raises SettingsError.
    """
    if settings.debug:
        refuse_closed_output()
        write_utf8()
        return lambda _: DebugTransport()
    from mailroom import ses  # noqa: PLC0415 - boto3 takes a third of a second and 17 MB: only who sends pays

    connect = partial(ses.connect, region=settings.aws_region, connections=connections)
    client = connect()
    return lambda engine: ses.SesTransport(
        client,
        source=settings.ses_source,
        config_set=settings.ses_config_set,
        site=None if engine is None else site(engine),
        output_path=output_path,
        renew=connect,
    )


def site(engine: Engine) -> UUID:
    """Return what tells the mails of a database from those of others."""
    with engine.connect() as connection:
        return events.site(connection)


def refuse_closed_output() -> None:
    """Raise SettingsError where there is no output to write mails to."""
    if not is_writable():
        raise SettingsError("the standard output is closed: the mails cannot be written")


@contextlib.contextmanager
def open_permits(
    settings: Settings,
    engine: Engine,
    transport: "SesTransport | DebugTransport",
    *,
    see: Callable[[AskAccount], AskAccount] = lambda ask: ask,
) -> Iterator[Permits]:
    """Give the permits of the fleet, and keep fresh what SES allows the account; where nothing is sent, no limit.

    `see` returns what asks SES, as others may see it.
    """
    if isinstance(transport, DebugTransport):
        yield NO_LIMIT
        return
    with AccountRefresh(engine, see(transport.account)).running():
        yield FleetPermits(engine, mail_rate=settings.ses_rate, bulk_rate=settings.ses_bulk_rate)


def open_events(settings: Settings) -> "EventQueue":
    """Return the queue of events that the settings name. Raises SettingsError."""
    from mailroom import ses  # noqa: PLC0415 - as above

    url = settings.events_queue_url
    connect = partial(
        ses.connect_to_queue, url, region=settings.aws_region, connections=READERS, endpoint=settings.events_endpoint
    )
    return ses.EventQueue(connect(), url, renew=connect)


@contextlib.contextmanager
def running_feed(settings: Settings, engine: Engine) -> Iterator[None]:
    """Take events into the record beside the senders, where the settings name their queue and mails are sent at all."""
    if not reads_events(settings):
        yield
        return
    with feed_of(open_events(settings), settings, engine).running():
        yield


def feed_of(source: "EventQueue", settings: Settings, engine: Engine, *, patient: bool = True) -> Feed:
    """Return what reads the events of a queue. What never went out and names no queue comes back to our own."""
    return Feed(engine, source, absorb=partial(feed.absorb, queue=settings.queue_name), patient=patient)


def reads_events(settings: Settings) -> bool:
    """Whether a worker with these settings reads events."""
    return bool(settings.events_queue_url) and not settings.debug


def limits(settings: Settings, *, into_pipe: bool = False) -> Limits:
    """Return how jobs are claimed.

    One batch at a time where nobody knows how long handing it over takes (a reader may stall), or where somebody has to
    decide about each mail that may be out: a claim for several leaves all of them so when it is cut off.
    """
    given = settings.unconfirmed_wait  # 0 is no wait, and not that none was given
    waits = (GRACE, GRACE_HEARD) if given is None else (given, given)
    resend_after, heard = waits if settings.on_unconfirmed == "resend" else (None, None)
    several = resend_after is not None and not into_pipe and not settings.debug
    return Limits(
        settings.queue_name,
        settings.batch_limit,
        settings.batch_timeout,
        settings.lease,
        resend_after,
        heard,
        claim_limit=MAX_CLAIM_JOBS if several else settings.batch_limit,
    )
