"""Faults on demand: what is to go wrong, with which calls, and how often."""

import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

ASKED_FOR = "A fault was asked for."


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Fault:
    """One thing that goes wrong with the next `times` calls it matches (None: with all of them).

    A fault does one thing, and may wait `latency_ms` before it answers. Which one is given by `error`, `entries`,
    `matching`, `before`, `accept_then`, `body`, `results` or `rendering_failure`; with none of them the answer is only
    late. `error`, `message` and `status` also say which error `accept_then="error"` answers with.

    Calls to a queue meet only the faults that name their operation; `entries` are then codes for `Failed`.
    """

    operation: str | None = None
    template: str | None = None
    recipients: str | None = None
    """Only calls with a recipient that contains this."""
    times: int | None = Field(default=1, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)

    latency_ms: float = Field(default=0, ge=0, allow_inf_nan=False)
    error: str | None = None
    """Answer with this exception; nothing is accepted."""
    status: int | None = Field(default=None, ge=400, le=599)
    """The HTTP status of `error`; without it, the model's."""
    message: str = ASKED_FOR
    entries: Mapping[int, str] = field(default_factory=dict)
    """The status of some entries of a bulk call, by position; such an entry is accepted only if it is SUCCESS."""
    matching: str | None = None
    """The status of the entries of a bulk call of which one recipient contains `recipients`."""
    before: Literal["hang", "drop"] | None = None
    """Accept nothing and do not answer: keep the connection open, or close it."""
    accept_then: Literal["hang", "drop", "truncate", "unended", "error"] | None = None
    """Accept, and do not say so: no answer, a closed connection, half of an answer, or an error.

    botocore does not notice the half that `truncate` leaves (fewer bytes than announced) and returns an empty dict;
    it does notice `unended` (chunks without a last one) and raises.
    """
    body: str | None = None
    """Accept, and answer 200 with this."""
    results: Literal["short", "long", "empty"] | None = None
    """Accept a bulk call, and answer with one result too few, one too many, or none."""
    rendering_failure: bool = False
    """Accept the mails, but render none (of those to `recipients`, if given)."""

    def __post_init__(self) -> None:
        """Raise a ValueError (pydantic's, which names it) for a fault that would do two things."""
        refuses = self.error is not None and self.accept_then != "error"
        actions = (
            refuses,
            self.entries,
            self.matching,
            self.before,
            self.accept_then,
            self.body is not None,
            self.results,
            self.rendering_failure,
        )
        if sum(map(bool, actions)) > 1:
            raise ValueError(
                "a fault does one thing: error, entries, matching, before, accept_then, body, results or"
                " rendering_failure"
            )

    def matches(self, operation: str, template: str | None, recipients: Sequence[str]) -> bool:
        alike = self.operation in {None, operation} and self.template in {None, template}
        return alike and (self.recipients is None or self.is_for(recipients))

    def is_for(self, recipients: Sequence[str]) -> bool:
        return any((self.recipients or "") in recipient for recipient in recipients)


class Faults:
    """The faults that are still to come, in order; the first that matches a call is applied to it, alone."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget all of them, and restart the sequence of chances."""
        with self._lock:
            self._random = random.Random(self._seed)  # noqa: S311  chances must repeat, not surprise
            self._pending: list[tuple[Fault, int | None]] = []

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._pending += [(fault, fault.times) for fault in faults]

    def pending(self) -> list[Fault]:
        with self._lock:
            return [fault for fault, _ in self._pending]

    def draw(
        self, operation: str, template: str | None, recipients: Sequence[str], *, named: bool = False
    ) -> Fault | None:
        """The fault for this call, if any, which uses it up once; with `named`, one that names the operation."""
        with self._lock:
            for position, (fault, times) in enumerate(self._pending):
                if named and fault.operation is None:
                    continue
                if fault.matches(operation, template, recipients) and self._random.random() < fault.probability:
                    self._pending[position : position + 1] = _used_once(fault, times)
                    return fault
        return None


def _used_once(fault: Fault, times: int | None) -> Iterable[tuple[Fault, int | None]]:
    if times is None:
        return [(fault, None)]
    return [(fault, times - 1)] if times > 1 else []
