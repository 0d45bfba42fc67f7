"""What one process of the fleet counted for all of them, and when: the one row of `readings`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, func, select

from mailroom.db.moments import EARLIEST
from mailroom.db.namespace import qualified
from mailroom.db.views import fleet_reading
from mailroom.job import Position, Priority
from mailroom.ops import feedback, health
from mailroom.ops.feedback import Feedback
from mailroom.ops.health import Health

# A reading that is older than this is no answer to what is now.
STALE_AFTER: Final = timedelta(seconds=60)
# Where cron alone sweeps, each minute, somebody counts each minute, and a little later when it has much to send.
MISSED_AFTER: Final = timedelta(seconds=90)
# A fleet that has not counted for longer has been taken away, and nobody wants to hear of it any more.
FORGOTTEN_AFTER: Final = timedelta(days=1)
# Raised when the shape below changes: a release does not read what it does not know.
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Lane:
    """Jobs of one queue, priority and action: due now, due later, and held.

    Of each kind 10,001 are counted at most; `capped`: of one there are more than 10,000.
    `oldest_seconds` is how long its oldest has been due; 0 if none is. `head` is where that one was.
    """

    queue: str
    priority: Priority
    action: str
    due: int
    later: int
    held: int
    capped: bool
    oldest_seconds: float
    head: Position | None = None


@dataclass(frozen=True, slots=True)
class Flight:
    """What is claimed and not settled. Of the batches `overdue` have outlived their lease, the worst for so long.

    `oldest_seconds`: how long ago the oldest was claimed.
    """

    batches: int
    jobs: int
    overdue: int
    overdue_seconds: float
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Paused:
    """What is paused for the whole fleet, why, and since when. `by_hand`: it ends by hand, and in no other way."""

    scope: str
    code: str
    reason: str
    seconds: float
    by_hand: bool
    opened_at: datetime
    probe_at: datetime | None


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many permits were ever granted, what throttling had left of the rate when it was counted, and what was in it
    when one was last taken.
    """

    granted: int
    slowdown: float
    level: float


@dataclass(frozen=True, slots=True)
class SesAccount:
    """What SES said of the account, and when; None: nothing yet. `granted_since`: permits granted after that."""

    seen_at: datetime | None
    max_send_rate: float | None
    max_24_hour_send: float | None
    sent_last_24_hours: float | None
    granted_since: int
    sending_enabled: bool | None
    production_access: bool | None
    enforcement: str | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that sends: `busy` of its `senders` have jobs. `listening` None: it does not listen at all.

    `feeding`: it reads the events of SES.
    """

    name: str
    queue: str
    version: str
    started_at: datetime
    seen_at: datetime
    senders: int
    busy: int
    listening: bool | None
    feeding: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """All of it, as it was at `read_at` by the database's clock, `age_seconds` ago; counting took `seconds`.

    `failure` is the class of the last failure to count since, at `failed_at`, or empty. `jobs_estimate` is about how
    many jobs there are, also where lanes are capped. `outcomes` counts the deliveries of the last "hour" and "day" by
    outcome, late ones apart as `late`, and what was taken back as `taken_back`. Of the last day: mails that may be out
    (`unconfirmed_day`), and those of them that were sent again (`sent_again_day`), each 10,001 at most. `priorities`
    has the priority with which the mails of each action begin; `own_senders` are those with a sender of their own.
    """

    read_at: datetime
    seconds: float
    failed_at: datetime | None
    failure: str
    lanes: tuple[Lane, ...]
    jobs_estimate: int
    flight: Flight
    pauses: tuple[Paused, ...]
    buckets: dict[str, Bucket]
    account: SesAccount
    workers: tuple[Worker, ...]
    outcomes: dict[str, dict[str, int]]
    unconfirmed_day: int
    sent_again_day: int
    health: Health
    feedback: Feedback
    warnings: dict[str, str]
    priorities: dict[str, Priority]
    own_senders: tuple[str, ...] = ()
    age_seconds: float = 0.0


def read(connection: Connection) -> Reading | None:
    """Return the last reading, however old it is; None if there never was one, or none that this release can read.

    Its `age_seconds` are as `age` has it.
    """
    kept = fleet_reading.c
    now = func.clock_timestamp().label("now")
    row = connection.execute(select(kept.read_at, kept.found, kept.failed_at, kept.failure, now)).first()
    if row is None or not isinstance(row.found, dict) or row.found.get("format") != FORMAT:
        return None
    try:
        found = of(connection, row.found)
    except ValidationError:  # who works must not end for what another release has written
        return None
    seconds = age(row.read_at, row.now).total_seconds()
    return replace(found, failed_at=row.failed_at, failure=row.failure, age_seconds=seconds)


def of(connection: Connection, counted: Mapping[str, Any]) -> Reading:
    """Return the reading that was counted, and what is made of it: warnings. Raises ValidationError."""
    given = {name: value for name, value in counted.items() if name != "format"}
    found = _adapter().validate_python(given | {"failed_at": None, "failure": "", "warnings": {}})
    well = replace(found.health, table=qualified(connection, "jobs"))
    return replace(found, health=well, warnings=health.warnings(well) | feedback.warnings(found.feedback))


def is_of_another_release(connection: Connection) -> bool:
    """Whether somebody has counted, in a way that this release cannot read; to be asked where `read` returns None."""
    return connection.scalar(select(fleet_reading.c.read_at)) is not None


def age(moment: datetime, now: datetime) -> timedelta:
    """Return how old it is what was so at a moment, by the clock of the database.

    What is ahead was written before the clock was set back: nobody knows its age, but it is no younger than that.
    Nothing is so old that its moment could not be told.
    """
    return min(abs(now - moment), now - EARLIEST)


def as_json(found: Reading) -> str:
    """Return a reading as it is kept."""
    text = _adapter().dump_json(found).decode()
    return f'{{"format":{FORMAT},{text[1:]}'


def too_old(found: Reading | None) -> dict[str, str]:
    """Return, by code, that nobody counts any more. Where nobody ever did, or not for a day, it is not missed."""
    if found is None or not MISSED_AFTER < timedelta(seconds=found.age_seconds) < FORGOTTEN_AFTER:
        return {}
    why = f"the last try ended with {found.failure}" if found.failure else "is there a worker?"
    return {"NoReading": f"nobody has counted for {found.age_seconds:.0f} s: {why}"}


def warnings(found: Reading) -> dict[str, str]:
    """Return what a person should look into, by code: what the reading says, and that it is old."""
    return found.warnings | too_old(found)


@cache
def _adapter() -> TypeAdapter[Reading]:
    return TypeAdapter(Reading)
