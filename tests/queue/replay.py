"""The words of the protocol's traces, on a real database: claim, settle, rescue, an event, a copy, a failover.

Amazon SES is played: whether it has taken a mail, and what became of it, is what a trace says. A worker is the batch
that it holds; it goes on with that whatever becomes of the database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection, text

from mailroom import queue
from mailroom.event import Event, EventKind
from mailroom.fleet import pauses
from mailroom.job import Batch
from mailroom.ops import maintenance
from mailroom.outcome import Outcome, Sent
from mailroom.queue import by_hand, events, feed
from mailroom.queue.late_acceptances import apply
from mailroom.queue.verdict import MAX_ATTEMPTS
from mailroom.ses.classify import REFUSALS
from tests.claiming import claim, run_out, settle
from tests.kinds import LANES
from tests.world import add_accounts, misplaced, rows

COPIED = ("accounts", "tokens", "jobs", "batches", "deliveries", "events")
SEQUENCES = """
    SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename) AS name, last_value
      FROM pg_sequences WHERE schemaname = current_schema() ORDER BY 1
"""

# Where a job is: once, or something is broken.
PLACE = """
    SELECT CASE WHEN due_at = 'infinity' THEN 'held' ELSE 'waits' END AS place FROM jobs WHERE token = :token
    UNION ALL
    SELECT 'in flight' FROM batches WHERE :token = ANY (tokens)
    UNION ALL
    SELECT CAST(outcome AS text) FROM deliveries
     WHERE token = :token AND NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')
"""


def message_of(batch: Batch) -> str:
    """Return the id that Amazon SES gave the first mail of a batch."""
    return f"m-{batch.fence}"


@dataclass(frozen=True, slots=True)
class Copy:
    """What a standby has: the rows of each table, as text, and the sequences."""

    rows: dict[str, list[str]]
    sequences: list[tuple[str, int | None]]  # None: never used


class Replay:
    """One database, and what may happen to it, by the words of the traces."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sign_ups = 0
        self.told: dict[tuple[EventKind, str], Event] = {}  # what is told again is the same

    # Applications and workers

    def sign_up(self, *, of: int | None = None) -> int:
        """Let somebody sign up, or make another token of an account; return the token."""
        if of is None:
            self.sign_ups += 1
            add_accounts(self.connection, 1, prefix=f"n{self.sign_ups}x")
        else:
            self.execute("INSERT INTO tokens (action, account) VALUES ('activation', :account)", account=of)
        return self.number("SELECT max(id) FROM tokens")

    def account_of(self, token: int) -> int:
        return self.number("SELECT account FROM tokens WHERE id = :token", token=token)

    def look(self) -> Batch | None:
        """Claim all that is not held, whatever is paused; return the batch, if a mail is to be sent."""
        self.execute("DELETE FROM pauses")
        self.execute("UPDATE jobs SET due_at = now() - interval '1 minute' WHERE due_at < 'infinity'")
        found = claim(self.connection)
        assert len(found.batches) <= 1
        return found.batches[0] if found.batches else None

    def claim(self) -> Batch:
        """Claim, where there is a mail to be sent."""
        batch = self.look()
        assert batch is not None
        return batch

    def settle(self, batch: Batch, outcome: Outcome | None = None) -> bool:
        """Settle each mail of a batch, as sent if nothing else is said. Whether the batch was still this worker's."""
        first = Sent(message_of(batch))
        others = [Sent(f"{message_of(batch)}-{place}") for place in range(1, len(batch.jobs))]
        answers: Sequence[Outcome] = [outcome] * len(batch.jobs) if outcome is not None else [first, *others]
        return settle(self.connection, batch, *answers)

    def rescue(self, *, hold: bool = False) -> None:
        """Let every lease run out, and rescue."""
        run_out(self.connection)
        assert queue.rescue(self.connection, resend_after=None if hold else timedelta(0))

    def last_attempt(self) -> None:
        self.execute("UPDATE jobs SET attempt = :last", last=MAX_ATTEMPTS - 1)

    # Amazon SES, and what is made of what it says

    def tell(self, kind: EventKind, batch: Batch, *, tagged: bool = True) -> events.Absorbed:
        """Absorb an event of the first mail of a batch."""
        [job, *_] = batch.jobs
        event = Event(
            kind=kind, message_id=message_of(batch), at=datetime.now(UTC).replace(microsecond=0), address=job.email
        )
        if tagged:
            event = replace(event, token=job.token, fence=batch.fence, site=events.site(self.connection))
        if kind is EventKind.BOUNCE:
            event = replace(event, type="Permanent", subtype="General", status="5.1.1")
        self.told.setdefault((kind, event.message_id), event)
        return events.absorb(self.connection, [self.told[kind, event.message_id]])

    def tell_foreign(self, batch: Batch) -> events.Absorbed:
        """Absorb a Send of another database in the same account of Amazon SES, whose ids are these."""
        [job, *_] = batch.jobs
        event = Event(EventKind.SEND, "m-there", datetime.now(UTC), token=job.token, fence=uuid4(), site=uuid4())
        return events.absorb(self.connection, [event])

    def sweep(self) -> None:
        """Let the sweeps over the record come by, until they find nothing."""
        for _ in range(3):
            self.execute("UPDATE events SET look_at = now() WHERE look_at IS NOT NULL")
            feed.take_back(self.connection, queue="mailroom")
            apply(self.connection)

    def prune(self) -> None:
        """Let everything have happened long ago, and forget what is over."""
        self.execute("UPDATE deliveries SET created_at = created_at - interval '100 days'")
        self.execute("UPDATE events SET absorbed_at = absorbed_at - interval '100 days'")
        maintenance.prune(self.connection, older_than=timedelta(days=90))

    def probe(self) -> str | None:
        """Let time pass, and a worker ask which pause it may try to end: with a mail that waits."""
        self.execute("UPDATE pauses SET probe_at = now() WHERE probe_at IS NOT NULL")
        return pauses.probe(self.connection, queue="mailroom", lanes=LANES, refusals=REFUSALS)

    # A person

    def retry(self, token: int) -> bool:
        return by_hand.retry(self.connection, [token], queue="mailroom").put_back == [token]

    def release(self, token: int) -> None:
        assert by_hand.release(self.connection, [token]) == [token]

    def drop(self, token: int) -> None:
        assert by_hand.drop(self.connection, [token]) == [token]

    # A failover that loses commits

    def copy(self) -> Copy:
        """Return what the standby has."""
        tables = {
            name: list(self.connection.scalars(text(f"SELECT CAST({name} AS text) FROM {name} ORDER BY 1")))  # noqa: S608
            for name in COPIED
        }
        found = rows(self.connection, SEQUENCES)
        return Copy(tables, [(row.name, row.last_value) for row in found])

    def fail_over(self, copy: Copy) -> None:
        """Go on from a copy: what was committed since is lost, and ids are given again."""
        self.execute("SET session_replication_role = replica")
        for name in reversed(COPIED):
            self.execute(f"DELETE FROM {name}")  # noqa: S608 - the tests' own words
        for name, kept in copy.rows.items():
            again = f"INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT (CAST(:row AS {name})).*"
            for row in kept:
                self.execute(again, row=row)
        for name, last in copy.sequences:
            put_back = "SELECT setval(CAST(:name AS regclass), :at, :called)"
            self.execute(put_back, name=name, at=last or 1, called=last is not None)
        self.execute("SET session_replication_role = origin")

    # What is so

    def place(self, token: int) -> str:
        """Say where a job is: waits, held, in flight, or how it ended."""
        assert misplaced(self.connection) == []
        [found] = rows(self.connection, PLACE, token=token)
        return str(found.place)

    def is_suppressed(self, address: str) -> bool:
        found = "SELECT FROM suppressions WHERE address_hash = token_address_hash(:address) AND reason IS NOT NULL"
        return bool(rows(self.connection, found, address=address))

    def execute(self, sql: str, **binds: object) -> None:
        self.connection.execute(text(sql), binds)

    def number(self, sql: str, **binds: object) -> int:
        return int(self.connection.scalar(text(sql), binds) or 0)
