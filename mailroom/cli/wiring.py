"""What several commands build from the settings: an engine, a transport, limits."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from sqlalchemy import Engine

from mailroom.cli.terminal import is_writable
from mailroom.db import preflight
from mailroom.db.engine import check_contract, connect_engine
from mailroom.errors import SettingsError
from mailroom.fleet.account_refresh import AccountRefresh
from mailroom.fleet.blocks import FleetPermits
from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.mail.debug import DebugTransport
from mailroom.queue.limits import MAX_CLAIM_JOBS, Limits
from mailroom.settings import Settings

if TYPE_CHECKING:
    from mailroom.ses import SesTransport

# Longer than a statement takes on a database in trouble; with what cancelling it may take short of the lease, which
# lasts while a claim is waited for.
ANSWER_WITHIN: Final = timedelta(seconds=20)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give what tells of the progress of a long command: on a terminal, and else to nobody."""
    with Console(stderr=True, markup=False).status("") as shown:
        yield shown.update


@contextlib.contextmanager
def open_database(
    settings: Settings, *, pool_size: int = 1, answer_within: timedelta | None = ANSWER_WITHIN, writes: bool = True
) -> Iterator[Engine]:
    """Give an engine on a database that answers and that this release may work on; DatabaseError otherwise.

    Who `writes` gets it only where what is written is kept, and what is read is all there is.
    """
    engine = connect_engine(
        settings.database_url,
        schema=settings.schema_name,
        pool_size=pool_size,
        answer_within=answer_within,
        writes=writes,
    )
    try:
        if writes:
            preflight.check(engine)
        else:
            check_contract(engine)
        yield engine
    finally:
        engine.dispose()


def open_transport(
    settings: Settings, *, connections: int, output_path: Path | None
) -> "SesTransport | DebugTransport":
    """Return the transport that the settings ask for, for `connections` threads."""
    if settings.debug:
        refuse_closed_output()
        return DebugTransport()
    from mailroom import ses  # noqa: PLC0415 - boto3 takes a third of a second and 25 MB: only who sends pays

    connect = partial(ses.connect, region=settings.aws_region, connections=connections)
    return ses.SesTransport(
        connect(),
        source=settings.ses_source,
        config_set=settings.ses_config_set,
        output_path=output_path,
        renew=connect,
    )


def refuse_closed_output() -> None:
    """Raise SettingsError where there is no output to write mails to."""
    if not is_writable():
        raise SettingsError("the standard output is closed: the mails cannot be written")


@contextlib.contextmanager
def open_permits(settings: Settings, engine: Engine, transport: "SesTransport | DebugTransport") -> Iterator[Permits]:
    """Give the permits of the fleet, and keep fresh what SES allows the account; where nothing is sent, no limit."""
    if isinstance(transport, DebugTransport):
        yield NO_LIMIT
        return
    with AccountRefresh(engine, transport.account).running():
        yield FleetPermits(engine, mail_rate=settings.ses_rate, bulk_rate=settings.ses_bulk_rate)


def limits(settings: Settings, *, into_pipe: bool = False) -> Limits:
    """Return how jobs are claimed.

    One batch at a time where nobody knows how long handing it over takes (a reader may stall), or where somebody has to
    decide about each mail that may be out: a claim for several leaves all of them so when it is cut off.
    """
    resend_after = settings.unconfirmed_wait if settings.on_unconfirmed == "resend" else None
    several = resend_after is not None and not into_pipe and not settings.debug
    return Limits(
        settings.queue_name,
        settings.batch_limit,
        settings.batch_timeout,
        settings.lease,
        resend_after,
        claim_limit=MAX_CLAIM_JOBS if several else settings.batch_limit,
    )
