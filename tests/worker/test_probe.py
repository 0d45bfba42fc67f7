"""What a probe tries: what was never refused, from all over the queue."""

from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from mailroom.job import Position, Priority
from mailroom.ses.classify import REFUSALS
from mailroom.worker.claims import Claims
from tests.kinds import ACTIVATION, LANES
from tests.running import limits
from tests.worker.refusing import record, sign_up
from tests.world import add_accounts, ask_recovery, rows


def places(connection: Connection, most: int = 10) -> list[int]:
    lanes = [lane for lane in LANES if lane[1] == ACTIVATION]
    found = pauses.places(connection, queue="mailroom", lanes=lanes, most=most, refusals=REFUSALS)
    return [position.token for _, position in found]


def test_a_probe_tries_those_that_were_never_refused_from_all_over_the_queue(conn: Connection) -> None:
    sign_up(conn, bad=400, good=400)
    tokens = [row.token for row in rows(conn, "SELECT token FROM jobs ORDER BY token")]
    tried = {
        place * 4 // len(tokens) for place in (tokens.index(token) for _ in range(5) for token in places(conn, 20))
    }
    assert tried == {0, 1, 2, 3}
    record(conn, *[("deferred", token) for token in tokens[:-1]])
    found = places(conn)
    assert found[0] == tokens[-1]
    assert len(found) == 1 + pauses.TRIED_AGAIN


def test_one_job_that_was_never_refused_is_found_behind_hundreds_that_were(conn: Connection) -> None:
    """As one waits that has come long before the last of them."""
    sign_up(conn, bad=700, good=1)
    tokens = [row.token for row in rows(conn, "SELECT token FROM jobs ORDER BY token")]
    record(conn, *[("deferred", token) for token in tokens[:150] + tokens[151:]])
    assert places(conn)[0] == tokens[150]


def test_a_probe_tries_what_is_due_in_its_lanes_alone(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active", prefix="active")
    ask_recovery(conn, account)
    sign_up(conn, bad=0, good=3)
    conn.execute(text("UPDATE jobs SET due_at = now() WHERE action = 'password_recovery'"))
    [mine, other, later] = [row.token for row in rows(conn, "SELECT token FROM jobs WHERE action = 'activation'")]
    conn.execute(text("UPDATE jobs SET queue = 'other' WHERE token = :token"), {"token": other})
    conn.execute(text("UPDATE jobs SET due_at = now() + interval '1 s' WHERE token = :token"), {"token": later})
    assert places(conn) == [mine]


def test_the_job_that_was_chosen_is_the_one_that_is_tried_however_young(engine: Engine, connection: Connection) -> None:
    """Before it, in the same second, are others that were refused."""
    add_accounts(connection, 20)
    claims = Claims(engine, limits())
    due = rows(connection, "SELECT priority, due_at, token FROM jobs ORDER BY token DESC")
    for row in due:
        connection.execute(text("UPDATE jobs SET due_at = clock_timestamp()"))
        [now] = rows(connection, "SELECT due_at FROM jobs WHERE token = :token", token=row.token)
        lane = (Priority(row.priority), ACTIVATION)
        claim = claims.claim_one(connection, [lane], Position(now.due_at, row.token), worker="test")
        assert [job.token for batch in claim.batches for job in batch.jobs] == [row.token]
