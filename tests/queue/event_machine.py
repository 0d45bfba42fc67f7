"""The same, with a provider that says what became of each mail: in any order, again, before its answer, or never.

It may accept a mail, and say later that it never went out. What nobody heard of is held, or sent again, by turns.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import rule

from mailroom.event import Event, EventKind
from mailroom.job import Batch, Job
from mailroom.queue import by_hand, events, feed
from mailroom.queue.claim import Claim
from mailroom.queue.late_acceptances import Applied, apply
from mailroom.queue.verdict import GRACE, MAX_ATTEMPTS
from tests.queue.machine import WAITING, WHICH, Held, Mailroom, message_of
from tests.world import rows

CONTRADICTING = (EventKind.RENDERING_FAILURE, EventKind.REJECT)
BEGAN = datetime.now(UTC)

# Where a mail has come to rest, of tokens that are there still.
AT_REST = """
    SELECT token, 'held' AS place FROM jobs JOIN tokens ON tokens.id = token WHERE due_at = 'infinity'
    UNION ALL
    SELECT token, CAST(outcome AS text) FROM deliveries JOIN tokens ON tokens.id = token
     WHERE NOT late AND retried_at IS NULL AND outcome IN ('sent', 'failed', 'rejected')
"""
FINISHED = """
    SELECT token AS id FROM deliveries
     WHERE NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed') ORDER BY token
"""
HELD = "SELECT token AS id FROM jobs WHERE due_at = 'infinity' ORDER BY token"
# An acceptance may be told by an event and by the answer; what a sweep writes repeats what it has found.
TOLD_TWICE = """
    SELECT token, batch, outcome FROM deliveries
     WHERE batch IS NOT NULL
       AND coalesce(error_code, '') NOT IN ('AcceptedLate', 'RenderingFailure', 'Reject')
     GROUP BY token, CASE WHEN token IS NULL THEN proof END, batch, outcome, late HAVING count(*) > 1
"""


@dataclass(frozen=True)
class Posted:
    """A mail that the provider accepted, and what contradicts that it went out, if anything."""

    message: str
    token: int
    fence: UUID
    address: str
    contradicted_by: EventKind | None


@dataclass(frozen=True)
class Story:
    """What happens to a batch whose events come first."""

    spoiled: EventKind | None
    kinds: list[EventKind]
    holds: bool
    lost: bool  # its lease runs out
    settles: bool


STORIES = st.builds(
    Story,
    spoiled=st.sampled_from([None, *CONTRADICTING]),
    kinds=st.lists(st.sampled_from(list(EventKind)), min_size=1, max_size=4),
    holds=st.booleans(),
    lost=st.booleans(),
    settles=st.booleans(),
)


class MailroomWithEvents(Mailroom):
    """One database and a provider that is heard."""

    told_twice = TOLD_TWICE

    def __init__(self) -> None:
        super().__init__()
        self.site = events.site(self.connection)
        self.posted: list[Posted] = []
        self.proven: set[str] = set()
        self.contradicted: set[str] = set()
        self.spoiled: EventKind | None = None

    # The provider

    @rule(how=st.sampled_from([None, *CONTRADICTING]))
    def spoil(self, how: EventKind | None) -> None:
        """From now on, what is accepted never goes out; or it does again."""
        self.spoiled = how

    def accept(self, batch: Batch, job: Job) -> None:
        """Of the batches in which a mail went out, all but one are on record as unconfirmed."""
        self.posted.append(Posted(message_of(batch, job), job.token, batch.fence, job.email, self.spoiled))
        if self.spoiled is None:
            out = {mail.fence for mail in self.posted if mail.token == job.token and mail.contradicted_by is None}
            assert len(out - self.doubts(job.token)) <= 1
            self.accepted[job.token] += 1

    def settled(self, held: Held) -> None:
        """An answer tells that a mail was accepted."""
        for job, verdict in zip(held.batch.jobs, held.verdicts or [], strict=False):
            if any(one.outcome == "sent" for one in verdict.deliveries):
                self.proven.add(message_of(held.batch, job))

    # What it tells

    @rule(
        told=st.lists(st.tuples(WHICH, st.sampled_from(list(EventKind))), min_size=1, max_size=8),
        times=st.integers(1, 3),
    )
    def tell(self, told: list[tuple[int, EventKind]], times: int) -> None:
        """Tell of any mails, in any order, and again."""
        if self.posted:
            self.absorb([(self.posted[which % len(self.posted)], kind) for which, kind in told], times=times)

    def absorb(self, told: Iterable[tuple[Posted, EventKind]], *, times: int = 1) -> None:
        found = [_event(mail, kind, self.site) for mail, kind in told]
        for _ in range(times):
            absorbed = events.absorb(self.connection, found * times)
            assert absorbed.elsewhere == 0
            assert absorbed.unknown <= times * sum(1 for event in found if event.fence is None)
        for event in found:
            (self.contradicted if event.kind in CONTRADICTING else self.proven).add(event.message_id)

    @rule(which=WHICH, ours=st.booleans())
    def tell_of_another_database(self, which: int, ours: bool) -> None:
        """Whose token has the same id. It may be a copy of this one, and have its site."""
        if not self.posted:
            return
        token = self.posted[which % len(self.posted)].token
        event = Event(EventKind.SEND, "m-there", BEGAN, token=token, fence=uuid4(), site=self.site if ours else uuid4())
        absorbed = events.absorb(self.connection, [event])
        assert (absorbed.elsewhere, absorbed.unknown, absorbed.added) == (int(not ours), int(ours), 0)

    # Workers and people

    @rule(story=STORIES, fates=st.lists(st.sampled_from(["accepted", "unheard"]), min_size=1, max_size=4))
    def be_heard_first(self, story: Story, fates: list[str]) -> None:
        """Hear of the mails of a batch before it is settled: on time, or late, or never."""
        if not self.uncalled():
            self.claim_what_comes_due(10)
        uncalled = self.uncalled()
        if not uncalled:
            return
        self.spoil(story.spoiled)
        self.hold_what_is_unconfirmed(story.holds)
        self.send(uncalled[0], fates)
        mails = [mail for mail in self.posted if mail.fence == uncalled[0].batch.fence]
        self.absorb([(mail, story.kinds[place % len(story.kinds)]) for place, mail in enumerate(mails)])
        if story.lost:
            self.run_out(uncalled[0].batch.id)
        self.sweep()
        if story.settles:
            self.settle(self.held.index(uncalled[0]), [], heard=True)
            self.look_over()

    @rule(which=WHICH)
    def leave_one_attempt(self, which: int) -> None:
        if token := self.an_id(WAITING, which):
            self.by_hand.add(token)
            self.execute("UPDATE jobs SET attempt = :last WHERE token = :token", last=MAX_ATTEMPTS - 1, token=token)

    @rule(holds=st.booleans())
    def hold_what_is_unconfirmed(self, holds: bool) -> None:
        self.resend_after = None if holds else GRACE

    def take(self, limit: int = 50, jobs: int = 100, timeout: int = 0) -> Claim:
        self.execute("DELETE FROM pauses")
        return super().take(limit, jobs, timeout)

    @rule(which=WHICH)
    def retry(self, which: int) -> None:
        if token := self.an_id(FINISHED, which):
            self.by_hand.add(token)
            by_hand.retry(self.connection, [token], queue="mailroom")

    @rule(which=WHICH)
    def release(self, which: int) -> None:
        if token := self.an_id(HELD, which):
            by_hand.release(self.connection, [token])

    # What holds after each sweep, and in the end

    def sweep(self) -> None:
        super().sweep()
        self.look_over()

    def look_over(self) -> None:
        """Let the sweeps over the record come by until they find nothing; then each mail rests where it should."""
        for _ in range(10):
            self.execute("UPDATE events SET look_at = now() WHERE look_at IS NOT NULL")
            taken_back: list[Any] = feed.take_back(self.connection, queue="mailroom")
            if apply(self.connection) == Applied(freed=0, amended=0) and not taken_back:
                break
        for row in rows(self.connection, AT_REST):
            mails = [mail for mail in self.posted if mail.token == row.token and mail.message not in self.contradicted]
            if row.place == "sent":
                assert mails, "sent, and never out"
            else:
                assert not [mail for mail in mails if mail.message in self.proven], f"{row.place}, and accepted"
            if row.place == "held" and row.token % 3:
                assert self.doubts(row.token) - self.disproved(row.token), "held, and never out"

    def doubts(self, token: int) -> set[UUID]:
        """The batches of a mail of which nobody heard."""
        record = "SELECT fence FROM deliveries WHERE token = :token AND outcome = 'unconfirmed'"
        return {row.fence for row in rows(self.connection, record, token=token)}

    def disproved(self, token: int) -> set[UUID]:
        """Those that the provider has contradicted."""
        return {mail.fence for mail in self.posted if mail.token == token and mail.message in self.contradicted}

    def teardown(self) -> None:
        """Every contradiction comes at last; then what is on record as sent went out."""
        self.resend_after, self.spoiled = GRACE, None
        self.absorb([(mail, mail.contradicted_by) for mail in self.posted if mail.contradicted_by is not None])
        self.held.clear()
        self.execute("UPDATE batches SET lease_until = now() - interval '1 second'")
        self.sweep()
        self.execute("UPDATE jobs SET due_at = now() - interval '1 second'")
        super().teardown()
        self.look_over()
        self.every_token_is_in_one_place()


def _event(mail: Posted, kind: EventKind, site: UUID) -> Event:
    """Of a mail that went out there is no contradiction, and of another nothing but that and that it was accepted.

    A contradiction may come without our tags.
    """
    if mail.contradicted_by is None:
        kind = EventKind.SEND if kind in CONTRADICTING else kind
    elif kind is not EventKind.SEND:
        kind = mail.contradicted_by
    event = Event(kind, mail.message, BEGAN + timedelta(seconds=list(EventKind).index(kind)), address=mail.address)
    if kind in CONTRADICTING and mail.token % 3 == 0:
        return event
    if kind is EventKind.BOUNCE:
        event = replace(event, type="Permanent" if mail.token % 2 else "Transient", subtype="General")
    return replace(event, token=mail.token, fence=mail.fence, site=site)
