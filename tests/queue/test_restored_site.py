"""Trap 21: what is restored elsewhere is of another site, and takes no event of mails that the old one sent."""

import psycopg
import pytest
from sqlalchemy import Connection, Engine

from mailroom.event import EventKind
from mailroom.outcome import Sent
from mailroom.queue import feed, late_acceptances
from mailroom.queue.events import Absorbed, absorb, site
from tests.claiming import claim, enqueue, settle, take, waited
from tests.running import connecting
from tests.servers import Server, migrate
from tests.telling import HARD, SEND, of, tell_of
from tests.world import count, misplaced, rows

# What docs/operating.md restores of this test's rows; `site` and `feed` are left out there.
RESTORED = ("accounts", "tokens", "jobs", "batches", "deliveries", "events")


def restore(old: str, new: str) -> None:
    """Bring the rows of one database into another that was migrated, with triggers off."""
    with psycopg.connect(old) as before, psycopg.connect(new) as after:
        after.execute("SET session_replication_role = replica")
        for table in RESTORED:
            columns = before.execute(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute"
                " WHERE attrelid = CAST(%s AS regclass) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
                [table],
            ).fetchall()[0][0]
            copied = f"{table} ({columns})"
            with (
                before.cursor().copy(f"COPY {copied} TO STDOUT".encode()) as out,
                after.cursor().copy(f"COPY {copied} FROM STDIN".encode()) as rows_in,
            ):
                for row in out:
                    rows_in.write(row)


@pytest.mark.slow
def test_a_restored_database_has_another_site_and_drops_the_events_of_the_old_one(
    server: Server, direct_url: str, engine: Engine, connection: Connection
) -> None:
    """There the mail that was in flight is held, or sent again; here SES has it, and only here that counts."""
    enqueue(connection, 2)
    sent, in_flight = take(connection, job_limit=1), take(connection, job_limit=1)
    assert settle(connection, sent, Sent("m-1"))
    home = site(connection)
    with server.database("restored") as name:
        url = server.database_url(name)
        migrate(url)
        restore(direct_url, url)
        with connecting(url) as other, other.connect() as restored:
            assert site(restored) != home
            assert misplaced(restored) == []
            told = [
                of(batch, kind, f"m-{batch.id}", site=home, **HARD) for batch in (sent, in_flight) for kind in EventKind
            ]
            assert absorb(restored, told) == Absorbed(0, 0, len(told), 0)
            feed.take_back(restored, queue="mailroom")
            late_acceptances.apply(restored)
            assert count(restored, "events") + count(restored, "suppressions") + count(restored, "pauses") == 0
            assert rows(restored, "SELECT heard_at, elsewhere FROM feed") == [(None, len(told))]
            waited(restored)
            assert claim(restored).taken == 0
            assert tell_of(restored, sent, SEND, "m-1") == Absorbed(1, 0, 0, 0)  # of its own site, the same counts
    assert absorb(connection, told) == Absorbed(len(told), 0, 0, 0)
