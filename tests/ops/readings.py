"""Readings as a fleet would have kept them: all is well, but for what a test says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mailroom.job import Priority
from mailroom.ops.feedback import Feedback
from mailroom.ops.health import Health
from mailroom.ops.minutes import WAIT_BOUNDS, Minute
from mailroom.ops.reading import Bucket, Flight, Lane, Paused, Reading, SesAccount, Worker
from mailroom.ops.reputation import Reputation
from mailroom.queue.feed import FeedState
from tests.kinds import ACTIVATION, RECOVERY

NOW = datetime(2026, 3, 1, 3, 0, 20, tzinfo=UTC)
URGENT, NORMAL, BULK, QUARANTINE = Priority
PROBED: dict[str, Any] = {"probe_at": NOW + timedelta(seconds=20)}


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def worker(seen: float = 5, *, name: str = "web1/4711", **other: Any) -> Worker:
    usual: dict[str, Any] = {"queue": "mailroom", "version": "0.2.0", "started_at": ago(3600), "senders": 4, "busy": 0}
    return Worker(name=name, seen_at=ago(seen), **usual | {"listening": True, "feeding": True} | other)


def lane(action: str = RECOVERY, priority: Priority = URGENT, due: int = 1, oldest: float = 0.5, **other: Any) -> Lane:
    usual: dict[str, Any] = {"queue": "mailroom", "later": 0, "held": 0, "capped": due > 10_000}
    return Lane(priority=priority, action=action, due=due, oldest_seconds=oldest if due else 0.0, **usual | other)


IMPORT = lane(ACTIVATION, BULK, 10_001, 7200)


def paused(scope: str, code: str = "ByHand", *, since: float = 720, **other: Any) -> Paused:
    usual: dict[str, Any] = {"reason": "SES refuses it", "by_hand": "probe_at" not in other, "probe_at": None}
    return Paused(scope=scope, code=code, seconds=since, opened_at=ago(since), **usual | other)


def account(**other: Any) -> SesAccount:
    usual = SesAccount(ago(30), 14.0, 50_000.0, 1_000.0, 10, True, True, "HEALTHY")
    return replace(usual, **other)


def reading(age: float = 5, *, seen: float | None = None, **other: Any) -> Reading:
    """A reading that is so many seconds old. `seen`: how long ago the only worker was."""
    feed = FeedState(5.0, 5.0, silent=False, live=True, added=10, known=0, elsewhere=0, unknown=0)
    usual = Reading(
        read_at=ago(age),
        seconds=0.02,
        failed_at=None,
        failure="",
        lanes=(),
        jobs_estimate=0,
        flight=Flight(0, 0, 0, 0.0, 0.0),
        pauses=(),
        buckets={"mails": Bucket(1000, 1.0, 6.0), "bulk_calls": Bucket(10, 1.0, 1.0)},
        account=account(),
        workers=(worker(5 if seen is None else seen),),
        outcomes={"hour": {}, "day": {}},
        unconfirmed_day=0,
        sent_again_day=0,
        health=Health(None, None, None, 0, vacuumed=True, overdue_seconds=0.0, waited_seconds={}),
        feedback=Feedback(feed, {}, {}),
        warnings={},
        priorities={ACTIVATION: NORMAL, RECOVERY: URGENT},
        age_seconds=age,
    )
    return replace(usual, **other)


def rates(bounced: float, complained: float = 0.0) -> Feedback:
    return replace(
        reading().feedback, reputation={"day": Reputation(5_000, 0, 0, bounce_rate=bounced, complaint_rate=complained)}
    )


def minute(
    back: int = 1,
    mails: int = 10,
    *,
    action: str = RECOVERY,
    priority: Priority = URGENT,
    outcome: str = "sent",
    code: str = "",
    waited: float = 0.006,
) -> Minute:
    """Mails of the minute that began `back` whole minutes before this one. `waited`: how long each had."""
    begins = NOW.replace(second=0) - timedelta(minutes=back)
    bucket = sum(bound < waited for bound in WAIT_BOUNDS)
    waits = tuple(mails if index == bucket else 0 for index in range(len(WAIT_BOUNDS) + 1))
    return Minute(begins, action, priority, outcome, code, mails, waits, "mailroom")


def busy(per_second: float = 12.6, minutes: int = 10) -> list[Minute]:
    """Minutes in which a bulk of activations left at that rate."""
    return [
        minute(back, round(per_second * 60), action=ACTIVATION, priority=BULK, waited=7200)
        for back in range(1, minutes + 1)
    ]
