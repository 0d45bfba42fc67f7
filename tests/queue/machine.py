"""Anything in any order: applications, workers, crashes and late answers on a real queue, and what always holds.

The model is the provider, which knows what it accepted, and the tokens there ever were. Whatever can happen can always
happen, and then may do nothing: hypothesis wants the same choice the second time, and a database has a clock.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection, text

from mailroom import queue
from mailroom.job import Batch, Job
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.claim import Claim
from mailroom.queue.floors import Floors
from mailroom.queue.verdict import GRACE, MAX_ATTEMPTS, Verdict, judge
from tests import claiming
from tests.world import MISPLACED, add_accounts, ask_recovery, rows

PLACES = """
    SELECT token, 'waits' AS place FROM jobs
    UNION ALL SELECT unnest(tokens), 'in flight' FROM batches
    UNION ALL SELECT token, 'over' FROM deliveries
     WHERE NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')
"""

ACCOUNTS = "SELECT id FROM accounts ORDER BY id"
WAITING = "SELECT token AS id FROM jobs ORDER BY priority, token"
BATCHES = "SELECT id FROM batches ORDER BY id"

# Why a mail must not be sent, if it must not: the claim's rules, told another way.
UNWANTED = """
    SELECT wanted AS token
      FROM unnest(CAST(:tokens AS bigint[])) AS wanted
     WHERE NOT EXISTS (
           SELECT FROM tokens JOIN accounts ON accounts.id = tokens.account
            WHERE tokens.id = wanted AND consumed_at IS NULL AND expires_at > now()
              AND (action, status) IN (('activation', 'provisioned'), ('password_recovery', 'active')))
        OR EXISTS (SELECT FROM deliveries WHERE token = wanted AND outcome = 'sent' AND NOT never_out(message_id))
        OR EXISTS (
           SELECT FROM tokens JOIN suppressions USING (address_hash)
            WHERE tokens.id = wanted AND (reason <> 'complaint' OR action = 'activation'))
"""

# A job is charged for each attempt that was put off, is unconfirmed or was taken back, but not for those of a throttled
# account.
MISCHARGED = """
    SELECT token, attempt FROM jobs
     WHERE attempt <> (
           SELECT count(*) FROM deliveries
            WHERE deliveries.token = jobs.token AND NOT late
              AND (outcome IN ('deferred', 'unconfirmed') AND error_code <> 'Throttling'
                   OR outcome = 'sent' AND retried_at IS NOT NULL))
"""

# A job that was charged as often as that is over.
SPENT = f"SELECT token FROM jobs WHERE attempt >= {MAX_ATTEMPTS}"  # noqa: S608 - a number of ours

# The claim that finds a late acceptance repeats it. Of tokens that are gone, proofs are left.
TOLD_TWICE = """
    SELECT token, batch, outcome FROM deliveries
     WHERE batch IS NOT NULL AND error_code IS DISTINCT FROM 'AcceptedLate'
     GROUP BY token, CASE WHEN token IS NULL THEN proof END, batch, outcome HAVING count(*) > 1
"""

# What becomes of a mail in a call. Unheard: accepted, but the worker does not learn it. Unsaid: nothing is said of it
# and of those behind it.
FATES = st.sampled_from(["accepted", "accepted", "unheard", "refused", "put off", "throttled", "lost", "unsaid"])
WHICH = st.integers(0, 10_000)


def message_of(batch: Batch, job: Job) -> str:
    """What the provider calls a mail."""
    return f"m-{batch.fence}-{job.token}"


@dataclass
class Held:
    """A batch in the hands of a worker, and what it learnt once it has called the provider."""

    batch: Batch
    verdicts: list[Verdict] | None = None


class Mailroom(RuleBasedStateMachine):
    """One database, one provider, and workers that come and go."""

    connection: Connection
    prepares = True  # a pooler passes on no statement that is prepared
    resend_after: timedelta | None = GRACE
    told_twice = TOLD_TWICE

    def __init__(self) -> None:
        super().__init__()
        self.floors = Floors()
        self.accepted: Counter[int] = Counter()
        self.held: list[Held] = []
        self.tokens: set[int] = set()
        self.by_hand: set[int] = set()
        self.inserts = 0
        self.execute("TRUNCATE accounts, tokens, jobs, batches, deliveries, events, suppressions, pauses CASCADE")

    def execute(self, sql: str, **binds: object) -> None:
        self.connection.execute(text(sql), binds)

    def each(self, *queries: str) -> list[list[Any]]:
        """Return the rows of each, all in one statement that is planned once: it is asked after every step."""
        session: psycopg.Connection[Any] | None = self.connection.connection.driver_connection
        assert session is not None
        session.prepare_threshold = sys.maxsize if self.prepares else None  # of all others none
        lists = ", ".join(f"(SELECT json_agg(found) FROM ({query}) AS found)" for query in queries)  # noqa: S608 - our own
        [found] = session.execute(f"SELECT {lists}".encode(), prepare=self.prepares)
        return [rows or [] for rows in found]

    # Applications

    @rule(count=st.one_of(st.integers(1, 5), st.integers(1, 120)))
    def insert_accounts(self, count: int) -> None:
        self.inserts += 1
        add_accounts(self.connection, count, prefix=f"i{self.inserts}n")
        self.tokens |= {row.id for row in rows(self.connection, "SELECT id FROM tokens")}

    @rule(count=st.integers(1, 5))
    def ask_recoveries(self, count: int) -> None:
        self.inserts += 1
        for account in add_accounts(self.connection, count, status="active", prefix=f"i{self.inserts}n"):
            self.tokens.add(ask_recovery(self.connection, account))

    @rule(which=WHICH)
    def consume_a_token(self, which: int) -> None:
        self.execute("UPDATE tokens SET consumed_at = now() WHERE id = :id", id=self.an_id(WAITING, which))

    @rule(which=WHICH)
    def let_a_token_run_out(self, which: int) -> None:
        self.execute("UPDATE tokens SET expires_at = now() WHERE id = :id", id=self.an_id(WAITING, which))

    @rule(which=WHICH, status=st.sampled_from(["active", "suspended"]))
    def change_an_account(self, which: int, status: str) -> None:
        change = "UPDATE accounts SET status = CAST(:status AS account_status) WHERE id = :id"
        self.execute(change, status=status, id=self.an_id(ACCOUNTS, which))

    @rule(which=WHICH)
    def delete_an_account(self, which: int) -> None:
        self.execute("DELETE FROM accounts WHERE id = :id", id=self.an_id(ACCOUNTS, which))

    def an_id(self, ids: str, which: int) -> int | None:
        found = [row.id for row in rows(self.connection, ids)]
        return found[which % len(found)] if found else None

    # Workers

    @rule(limit=st.integers(1, 50), jobs=st.integers(1, 200), timeout=st.sampled_from([0, 5]))
    def claim(self, limit: int, jobs: int, timeout: int) -> None:
        self.take(limit, jobs, timeout)

    @rule(ago=st.integers(0, 10))
    def claim_what_comes_due(self, ago: int) -> None:
        due = "UPDATE jobs SET due_at = now() - make_interval(secs => :ago) WHERE due_at < 'infinity'"
        self.execute(due, ago=ago)
        self.take()

    def take(self, limit: int = 50, jobs: int = 100, timeout: int = 0) -> Claim:
        claim = claiming.claim(
            self.connection,
            queue="mailroom",
            worker="test",
            batch_limit=limit,
            job_limit=jobs,
            batch_timeout=timedelta(seconds=timeout),
            lease=timedelta(minutes=10),
            floors=self.floors,
        )
        assert claim.taken <= jobs
        for batch in claim.batches:
            tokens = [job.token for job in batch.jobs]
            assert len(tokens) <= limit
            assert rows(self.connection, UNWANTED, tokens=tokens) == []
            self.held.append(Held(batch))
        return claim

    @rule(which=WHICH, fates=st.lists(FATES, min_size=1, max_size=8))
    def call(self, which: int, fates: list[str]) -> None:
        if uncalled := self.uncalled():
            self.send(uncalled[which % len(uncalled)], fates)

    def uncalled(self) -> list[Held]:
        return [held for held in self.held if held.verdicts is None]

    def send(self, held: Held, fates: list[str]) -> None:
        """Let the provider decide on each mail of a batch, the fates taking turns."""
        held.verdicts = []
        for position, job in enumerate(held.batch.jobs):
            fate = fates[position % len(fates)]
            if fate == "unsaid":
                return
            outcome = self.meet(fate, held.batch, job)
            verdict = judge(outcome, attempt=job.attempt, jitter=0.5, resend_after=self.resend_after)
            held.verdicts.append(verdict)

    def meet(self, fate: str, batch: Batch, job: Job) -> Outcome:
        if fate in ("accepted", "unheard"):
            self.accept(batch, job)
        match fate:
            case "accepted":
                return Sent(message_of(batch, job))
            case "refused":
                return Rejected("MessageRejected", "no")
            case "put off":
                return Deferred("Transient", "later", charged=True)
            case "throttled":
                return Deferred("Throttling", "slow down", charged=False)
            case _:
                return Unconfirmed("Timeout", "no answer")

    def accept(self, _: Batch, job: Job) -> None:
        """A mail may go out twice only if it is on record that nobody knew whether it had gone out before."""
        if self.accepted[job.token]:
            assert self.is_on_record(job.token, "unconfirmed")
        self.accepted[job.token] += 1

    def is_on_record(self, token: int, outcome: str) -> bool:
        record = "SELECT FROM deliveries WHERE token = :token AND outcome = CAST(:outcome AS delivery_outcome)"
        return bool(rows(self.connection, record, token=token, outcome=outcome))

    @rule(which=WHICH, fates=st.lists(FATES, min_size=1, max_size=8), heard=st.booleans(), together=st.integers(1, 4))
    def settle_some(self, which: int, fates: list[str], heard: bool, together: int) -> None:
        if self.held:
            self.settle(which, fates, heard=heard, together=together)

    def settle(self, which: int, fates: list[str], *, heard: bool, together: int = 1) -> None:
        """Settle on time, late, or for the second time: a worker that has not heard that it did will do so again.

        It settles several batches of one action in one statement, and gives those back with it that it has not sent.
        """
        first = self.held[which % len(self.held)]
        others = [held for held in self.held if held.batch.action is first.batch.action and held is not first]
        if first.verdicts is None:
            self.send(first, fates)
        closing = [first, *others[: together - 1]]
        queue.settle(self.connection, [(held.batch, held.verdicts or []) for held in closing])
        for held in closing:
            self.settled(held)
            if heard or held.verdicts is None:
                self.held.remove(held)

    def settled(self, held: Held) -> None:
        """What a batch brought is on record now."""

    @rule(which=WHICH)
    def give_back(self, which: int) -> None:
        if uncalled := self.uncalled():
            held = uncalled[which % len(uncalled)]
            queue.settle(self.connection, [(held.batch, [])])
            self.held.remove(held)

    @rule(which=WHICH)
    def crash(self, which: int) -> None:
        if self.held:
            del self.held[which % len(self.held)]

    @rule(which=WHICH)
    def let_a_lease_run_out(self, which: int) -> None:
        self.run_out(self.an_id(BATCHES, which))

    @rule(which=WHICH, fates=st.lists(FATES, min_size=1, max_size=8))
    def be_too_slow(self, which: int, fates: list[str]) -> None:
        """Answer after the lease ran out and a sweep came by."""
        if self.held:
            self.run_out(self.held[which % len(self.held)].batch.id)
            self.sweep()
            self.settle(which, fates, heard=True)

    def run_out(self, batch: int | None) -> None:
        self.execute("UPDATE batches SET lease_until = now() - interval '1 second' WHERE id = :id", id=batch)

    @rule()
    def sweep_once(self) -> None:
        self.sweep()

    def sweep(self) -> None:
        """Let a sweep come by, which takes so many batches at a time as there may be."""
        claiming.start_over(self.floors)
        while queue.rescue(self.connection, resend_after=self.resend_after):
            pass

    # What holds throughout, and in the end

    @invariant()
    def every_token_is_in_one_place(self) -> None:
        misplaced, places = self.each(MISPLACED.text, PLACES)
        assert misplaced == []
        assert {row["token"] for row in places} == self.tokens

    @invariant()
    def every_attempt_is_charged_for_what_is_on_record(self) -> None:
        mischarged, spent = self.each(MISCHARGED, SPENT)
        assert {row["token"] for row in mischarged} <= self.by_hand
        assert spent == []

    @invariant()
    def every_result_of_a_batch_is_on_record_once(self) -> None:
        assert self.each(self.told_twice) == [[]]

    def teardown(self) -> None:
        """All workers are gone, a new one works off what is left: then every mail is accounted for."""
        self.held.clear()
        self.execute("UPDATE batches SET lease_until = now() - interval '1 second'")
        self.sweep()
        self.execute("UPDATE jobs SET due_at = now() - interval '1 second'")
        while self.take().taken:
            for held in self.held:
                self.send(held, ["accepted"])
                assert held.verdicts is not None
                assert queue.settle(self.connection, [(held.batch, held.verdicts)])
                self.settled(held)
            self.held.clear()
        self.every_token_is_in_one_place()
        assert {row.place for row in rows(self.connection, PLACES)} <= {"over"}
        for token in self.accepted:
            assert self.is_on_record(token, "sent") or self.is_on_record(token, "unconfirmed")
