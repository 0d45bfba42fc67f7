"""Whether a process is stuck, and whether it is ready: what probes and a watchdog are told, from memory alone. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mailroom.worker.vitals import Vitals

# How often a worker reports to the fleet; it looks for work at least that often. Here, since `report` brings more than
# probes need.
REPORT_EVERY: Final = timedelta(seconds=15)

# Longer than all that a look has to wait for in a row, besides statements.
LOOK_WITHIN: Final = timedelta(seconds=60)
REACHED_WITHIN: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a probe asks, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long a step may take before its thread must be taken for one that hangs: of who looks, and of a sender.

    And how long the database may give no answer.
    """

    look: timedelta
    step: timedelta
    reached: timedelta


def bounds(*, lease: timedelta, answer_within: timedelta, sweep_interval: timedelta) -> Bounds:
    """Return the bounds of a worker. No statement is waited for longer than `answer_within`, no call than a lease.

    Who looks comes round for a report at the latest, however seldom it sweeps.
    """
    return Bounds(
        look=LOOK_WITHIN + 3 * min(sweep_interval, REPORT_EVERY) + 2 * answer_within,
        step=lease + answer_within,
        reached=REACHED_WITHIN,
    )


def live(vitals: Vitals, limits: Bounds) -> list[Check]:
    """Whether the process is stuck, so that only a restart helps.

    It is not for a database or SES that is down, nor for whatever else a restart does not mend: that would only lose
    the calls in flight.
    """
    look, step = vitals.step_seconds(looks=True), vitals.step_seconds(looks=False)
    return [
        Check("look", look <= limits.look.total_seconds(), _of(look, limits.look)),
        Check("step", step <= limits.step.total_seconds(), _of(step, limits.step)),
        Check("threads", vitals.died == 0, f"{vitals.senders} senders, died {vitals.died}"),
    ]


def ready(vitals: Vitals, limits: Bounds) -> list[Check]:
    """Whether the process works: started, so that its release fits the database, and the database answers.

    And it does what senders ask: a look finds it well where a claim, or a settlement, needs a right that lacks.
    """
    unreached, refused = vitals.unreached_seconds, vitals.refused_seconds
    reached = unreached is not None and unreached <= limits.reached.total_seconds()
    return [
        Check("started", vitals.is_started, "yes" if vitals.is_started else "not yet"),
        Check("database", reached, "never reached" if unreached is None else _of(unreached, limits.reached)),
        Check("refused", refused <= limits.reached.total_seconds(), _of(refused, limits.reached)),
        Check("stopping", not vitals.is_stopping, "yes" if vitals.is_stopping else "no"),
    ]


def passed(checks: Sequence[Check]) -> bool:
    """Whether all of them passed."""
    return all(check.passed for check in checks)


def _of(seconds: float, limit: timedelta) -> str:
    return f"{seconds:.0f} s of {limit.total_seconds():.0f} s"
