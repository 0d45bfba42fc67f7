"""Thousands of jobs whose answers are lost, and whose events come shuffled and twice over: all ends as it was."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from threading import Lock
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.event import Event
from mailroom.job import Batch
from mailroom.outcome import Outcome, Sent, Unconfirmed
from mailroom.queue import late_acceptances
from mailroom.queue.events import absorb, site
from mailroom.queue.verdict import judge
from tests.claiming import claim, enqueue, run_out
from tests.telling import BOUNCE, DELIVERY, HARD, SEND, of
from tests.world import misplaced, rows

JOBS = 6_000
ANSWERED, NEVER_SETTLED, NEVER_TAKEN, HELD = 0.35, 0.15, 0.15, 0.8


@dataclass
class Provider:
    """What SES took, and what it is about to tell of it."""

    home: UUID
    chance: random.Random
    accepted: list[tuple[int, UUID]] = field(default_factory=list)
    unread: list[Event] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def take(self, batch: Batch, job: int) -> Outcome:
        """Take a mail, perhaps; answer, perhaps. Whatever is taken is told of, one to three times."""
        with self.lock:
            if self.chance.random() < NEVER_TAKEN:
                return Unconfirmed("Timeout", "no answer")
            message = f"m-{len(self.accepted)}"
            self.accepted.append((batch.jobs[job].token, batch.fence))
            said = self.chance.sample([SEND, DELIVERY, BOUNCE], self.chance.randint(1, 3))
            for kind in said * self.chance.randint(1, 3):
                more = HARD if kind is BOUNCE else {}
                self.unread.append(of(batch, kind, message, job=job, site=self.home, **more))
            return Sent(message) if self.chance.random() < ANSWERED else Unconfirmed("Timeout", "no answer")

    def receive(self) -> list[Event]:
        """Give some events in no order, one of them of somebody else; now and then they come again."""
        with self.lock:
            self.chance.shuffle(self.unread)
            some = self.unread[:10]
            if self.chance.random() > 0.1:
                del self.unread[:10]
        return some and [*some, replace(some[0], site=uuid4(), message_id="theirs")]


def send(engine: Engine, provider: Provider, chance: random.Random) -> None:
    """Work as a worker does that is cut off now and then."""
    with engine.connect() as connection:
        while (claimed := claim(connection, batch_limit=10, claim_limit=10)).taken:
            for batch in claimed.batches:
                outcomes = [provider.take(batch, job) for job in range(len(batch.jobs))]
                if chance.random() < NEVER_SETTLED:
                    run_out(connection, batch)
                else:
                    wait = None if chance.random() < HELD else timedelta(0)
                    verdicts = [
                        judge(outcome, attempt=job.attempt, jitter=1, resend_after=wait)
                        for job, outcome in zip(batch.jobs, outcomes, strict=True)
                    ]
                    queue.settle(connection, [(batch, verdicts)])
            queue.rescue(connection, resend_after=None if chance.random() < HELD else timedelta(0))


def consume(engine: Engine, provider: Provider) -> None:
    with engine.connect() as connection:
        while events := provider.receive():
            absorb(connection, events)


def finish(connection: Connection) -> None:
    """Let sweeps and claims act on the record until nothing follows from it."""
    while late_acceptances.apply(connection).freed or claim(connection).finished:
        pass


@pytest.mark.one_server
@pytest.mark.slow
def test_whatever_was_accepted_ends_as_sent_and_nothing_else_does(engine: Engine, connection: Connection) -> None:
    provider = Provider(site(connection), random.Random(12))
    enqueue(connection, JOBS)
    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(send, engine, provider, random.Random(n)) for n in range(2)]
        while not all(each.done() for each in working):
            for each in [threads.submit(consume, engine, provider) for _ in range(2)]:
                each.result()
        for each in working:
            each.result()
    while provider.unread:
        consume(engine, provider)
    finish(connection)

    assert misplaced(connection) == []
    accepted = provider.accepted
    taken = {token for token, _ in accepted}
    sent = {r.token for r in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'sent' AND NOT late")}
    held = {r.token for r in rows(connection, "SELECT token FROM jobs")}
    assert (held & taken, sent - taken, taken - sent) == (set(), set(), set())
    assert len(held) > JOBS // 50  # those that SES never took, and of which nobody can know
    twice = {token: len([1 for other, _ in accepted if other == token]) for token in held}
    assert twice == dict.fromkeys(held, 0)
    times = "SELECT token, count(*) FILTER (WHERE outcome = 'unconfirmed') AS unsure FROM deliveries GROUP BY token"
    unsure = {r.token: r.unsure for r in rows(connection, times)}
    counts: dict[int, int] = {}
    for token, _ in accepted:
        counts[token] = counts.get(token, 0) + 1
    assert [token for token, count in counts.items() if count - 1 > unsure[token]] == []
    late = "SELECT count(*) AS count FROM deliveries WHERE late AND outcome = 'sent' GROUP BY token, fence"
    assert {r.count for r in rows(connection, late)} == {1}
    assert rows(connection, text("SELECT unknown FROM feed").text) == [(0,)]
