"""What becomes of each mail that SES took, and who is told of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mailroom.simulator import happenings
from mailroom.simulator.happenings import PLAIN, RENDERING_FAILURE, SEND, Happening
from mailroom.simulator.records import Mail
from mailroom.simulator.ses import Ses

Accepted = Sequence[tuple[Mail, tuple[Happening, ...]]]


def stories(ses: Ses, mails: Iterable[Mail]) -> Accepted:
    """The mails that were accepted, each with what becomes of it by itself."""
    return [(mail, _story(ses, mail)) for mail in mails]


def accept(ses: Ses, accepted: Accepted) -> Callable[[], None]:
    """Let what becomes of these mails happen; the answer tells of it, and is to be called once the client has its own.

    It has been called already where the feed is set to tell before the answer.
    """
    told = [(mail, story) for mail, story in accepted if _is_told(ses, mail)]
    for mail, story in accepted:
        if story is not PLAIN:
            _learn(ses, mail, story)
    if not told:
        return _nothing

    def publish() -> None:
        for mail, story in told:
            _publish(ses, mail, story)

    if not ses.feed.settings.before_answer:
        return publish
    publish()
    return _nothing


def happen(ses: Ses, mail: Mail, story: Sequence[Happening]) -> None:
    """Let this happen to a mail now, and tell of it."""
    ses.ledger.note(mail.message_id, story)
    _learn(ses, mail, story)
    _publish(ses, mail, story)


def _story(ses: Ses, mail: Mail) -> tuple[Happening, ...]:
    """What becomes of a mail by itself."""
    if mail.missing is not None:
        return (SEND, RENDERING_FAILURE) if ses.feed.settings.send_before_rendering_failure else (RENDERING_FAILURE,)
    if not ses.suppression.is_empty() and (refused := ses.suppression.hits(mail.recipients, _reasons(ses, mail))):
        others = tuple(address for address in mail.recipients if address not in refused)
        rest = [replace(one, to=one.to or others) for one in happenings.by_address(others)[1:]] if others else []
        return (SEND, *refused.values(), *rest)
    return happenings.by_address(mail.recipients)


def _reasons(ses: Ses, mail: Mail) -> frozenset[str]:
    found = ses.configuration_sets.find(mail.configuration_set)
    own = found.suppressed_reasons if found else None
    return ses.suppression.reasons if own is None else own


def _learn(ses: Ses, mail: Mail, story: Sequence[Happening]) -> None:
    for happening in story:
        mailed = [address for address in mail.recipients if address in happening.to] or mail.recipients
        ses.suppression.learn(happening, mailed, mail.message_id, _reasons(ses, mail))


def _is_told(ses: Ses, mail: Mail) -> bool:
    found = ses.configuration_sets.find(mail.configuration_set)
    return found is not None and bool(found.destinations)


def _publish(ses: Ses, mail: Mail, story: Sequence[Happening]) -> None:
    found = ses.configuration_sets.find(mail.configuration_set)
    if found is None:
        return
    now = datetime.now(UTC)
    for place, happening in enumerate(story):
        moment = now + timedelta(milliseconds=place)
        for destination in found.wanting(happening.event):
            if destination.queue and (queue := ses.queues.find(destination.queue)):
                ses.feed.tell(mail, happening, moment, via=destination, to=queue)


def _nothing() -> None:
    pass
