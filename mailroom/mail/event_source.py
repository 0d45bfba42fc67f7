"""The seam to where a provider's events come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from mailroom.event import Event, Ignored, Unreadable

# The longest wait for an event: whoever is asked to stop must not wait long for what does not come.
MAX_WAIT: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was received, and what is in it. `id` is for people; `handle` for deleting it.

    A message without a handle cannot be deleted.
    """

    id: str
    handle: str = field(repr=False)
    holds: Event | Ignored | Unreadable


class EventSource(Protocol):
    """Gives messages, and again after a while what was not deleted. Safe to share between threads."""

    most: int

    def receive(self, *, wait: timedelta) -> Sequence[Received]:
        """Return the messages there are, at most `most`; wait for the first as long as that. Raises FeedError."""
        ...  # pragma: no cover

    def remove(self, messages: Sequence[Received]) -> int:
        """Delete messages; return how many were not, and so will come again. Raises FeedError."""
        ...  # pragma: no cover

    def keep(self, messages: Sequence[Received]) -> None:
        """Have nobody else receive these messages for another while. Raises FeedError."""
        ...  # pragma: no cover
