"""What is known of mails once SES has accepted them: whether events come, who is not mailed any more, and the rates."""

from dataclasses import dataclass

from sqlalchemy import Connection

from mailroom.ops import reputation
from mailroom.ops.reputation import Reputation
from mailroom.queue import feed
from mailroom.queue.feed import SILENCE, FeedState


@dataclass(frozen=True, slots=True)
class Feedback:
    """The feed, how many addresses are suppressed for which reason, and the rates: without a feed they mean nothing."""

    feed: FeedState
    suppressed: dict[str, int]
    reputation: dict[str, Reputation]


def read_warnings(connection: Connection, state: FeedState | None = None) -> dict[str, str]:
    """Return what a person should look into, by code; at a bounded cost, and hardly any where there is no feed.

    `state` is that of the feed, if it is known.
    """
    state = state or feed.state(connection)
    return _warnings(state, {} if state.polled_seconds is None else reputation.read(connection))


def warnings(found: Feedback) -> dict[str, str]:
    """Return what a person should look into, by code."""
    return _warnings(found.feed, found.reputation)


def _warnings(state: FeedState, rates: dict[str, Reputation]) -> dict[str, str]:
    warned = reputation.warnings(rates)
    if state.silent:
        minutes = SILENCE.total_seconds() / 60
        heard = "never" if state.heard_seconds is None else f"{state.heard_seconds:.0f} s ago"
        warned["FeedSilent"] = f"no event for mails sent more than {minutes:.0f} minutes ago; the newest came: {heard}"
    return warned
