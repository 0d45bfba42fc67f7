"""What a worker tells whoever counts or traces its work. By default nobody does, and it costs nothing."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal, Protocol

from sqlalchemy import Connection

from mailroom.job import Batch
from mailroom.queue.claim import Claim
from mailroom.queue.verdict import Verdict

WakenBy = Literal["notification", "look", "sweep"]
Result = Literal["answered", "refused", "unsent", "unconfirmed"]


class Telemetry(Protocol):
    """Told once a batch or a claim, never once a mail. Safe to share between threads."""

    def sweeps(self, connection: Connection) -> None:
        """A look of a sweep begins, over this connection. Raises DBAPIError, if it asks something and that fails."""
        ...  # pragma: no cover

    def knows(self, actions: Iterable[str]) -> None:
        """These are the kinds of mail that there are now."""
        ...  # pragma: no cover

    def claimed(self, claim: Claim, *, seconds: float) -> None:
        """A claim was answered just now, and took so long."""
        ...  # pragma: no cover

    def sending(self, batch: Batch) -> AbstractContextManager[object]:
        """The first call for a batch begins, and whatever is called within the block is for it."""
        ...  # pragma: no cover

    def called(self, operation: str, result: Result, *, seconds: float) -> None:
        """A call of the provider is over."""
        ...  # pragma: no cover

    def settled(self, batch: Batch, verdicts: Sequence[Verdict], *, owned: bool) -> dict[str, str]:
        """A batch is closed, for certain; return the ids by which a line of the log about it can be found."""
        ...  # pragma: no cover

    def settle_took(self, batches: Sequence[Batch], seconds: float) -> None:
        """A settlement of these batches was answered just now."""
        ...  # pragma: no cover

    def settle_failed(self) -> None:
        """A settlement has to be repeated."""
        ...  # pragma: no cover

    def permit_awaited(self, seconds: float) -> None:
        """A sender has waited for a permit."""
        ...  # pragma: no cover

    def woken(self, by: WakenBy) -> None:
        """The process begins to look for work, or a sender does, for this reason."""
        ...  # pragma: no cover


class NoTelemetry:
    """Nobody counts."""

    _nothing: Final = nullcontext()

    def sweeps(self, connection: Connection) -> None:
        """See `Telemetry.sweeps`."""

    def knows(self, actions: Iterable[str]) -> None:
        """See `Telemetry.knows`."""

    def claimed(self, claim: Claim, *, seconds: float) -> None:
        """See `Telemetry.claimed`."""

    def sending(self, batch: Batch) -> AbstractContextManager[object]:
        """See `Telemetry.sending`."""
        return self._nothing

    def called(self, operation: str, result: Result, *, seconds: float) -> None:
        """See `Telemetry.called`."""

    def settled(self, batch: Batch, verdicts: Sequence[Verdict], *, owned: bool) -> dict[str, str]:
        """See `Telemetry.settled`."""
        return {}

    def settle_took(self, batches: Sequence[Batch], seconds: float) -> None:
        """See `Telemetry.settle_took`."""

    def settle_failed(self) -> None:
        """See `Telemetry.settle_failed`."""

    def permit_awaited(self, seconds: float) -> None:
        """See `Telemetry.permit_awaited`."""

    def woken(self, by: WakenBy) -> None:
        """See `Telemetry.woken`."""


NO_TELEMETRY: Final[Telemetry] = NoTelemetry()


def installed_version() -> str:
    """Return which mailroom this is; "unknown" where it runs from a folder, and was never installed."""
    try:
        return version("mailroom")
    except PackageNotFoundError:
        return "unknown"
