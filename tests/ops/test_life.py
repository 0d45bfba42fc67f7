"""The life of one mail, in one order of time, to where it is now."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from mailroom.event import EventKind
from mailroom.ops.life import Moment, life
from mailroom.queue import events
from tests.claiming import enqueue_recovery, take, waited
from tests.telling import of

RECORD = """
INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, error_code, due_at, claimed_at, call_ms,
                        created_at)
SELECT id, account, :batch, CAST(:fence AS uuid), action, CAST(:outcome AS delivery_outcome), :attempt, :code, due,
       due + interval '6 ms', :ms, due + interval '200 ms'
  FROM tokens, LATERAL (SELECT now() - CAST(:ago AS interval) AS due) AS moments
 WHERE id = :token
"""


def attempt(connection: Connection, token: int, outcome: str, *, ago: str, number: int = 0, **given: Any) -> None:
    binds = {"token": token, "outcome": outcome, "ago": ago, "attempt": number, "batch": 7 + number, "ms": 143}
    connection.execute(text(RECORD), binds | {"code": None, "fence": None} | given)


def told(connection: Connection, token: int) -> list[tuple[str, str]]:
    return [(moment.kind, moment.text) for moment in life(connection, token)]


def test_nothing_is_known_of_what_never_was(conn: Connection) -> None:
    assert life(conn, 4_711) == ()


def test_a_mail_that_was_delivered_has_its_whole_life(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    conn.execute(text("UPDATE tokens SET created_at = now() - interval '70 s', expires_at = now() + interval '1 hour'"))
    batch = take(conn)
    conn.execute(text("DELETE FROM batches"))
    attempt(conn, token, "deferred", ago="69 s", code="TRANSIENT_FAILURE")
    attempt(conn, token, "sent", ago="60 s", number=1, fence=batch.fence)
    delivered = of(batch, EventKind.DELIVERY, "m", site=events.site(conn))
    events.absorb(conn, [replace(delivered, at=datetime.now(UTC))])
    found = life(conn, token)
    assert [(moment.kind, moment.text) for moment in found] == [
        ("made", "the application asked for it"),
        ("due", "due"),
        ("claimed", "a worker took it, 6 ms after it was due"),
        ("called", "the call of SES began, about"),
        ("deferred", "not accepted, after 143 ms: it will be tried again"),
        ("due", "due for another try"),
        ("claimed", "a worker took it, 6 ms after it was due"),
        ("called", "the call of SES began, about"),
        ("sent", "SES accepted it, after 143 ms"),
        ("delivery", "the recipient's server took it"),
        ("expires", "its link ends, unless it is renewed"),
    ]
    assert [moment.batch for moment in found if moment.kind == "claimed"] == [7, 8]
    assert next(moment.code for moment in found if moment.kind == "deferred") == "TRANSIENT_FAILURE"
    called = [moment.at for moment in found if moment.kind in {"called", "deferred"}]
    assert called[0] is not None
    assert called[1] is not None
    assert called[1] - called[0] == timedelta(milliseconds=143)


def test_where_it_is_now_comes_last(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    waited(conn, 3600)
    assert told(conn, token)[-1] == ("waiting", "waits")
    conn.execute(text("UPDATE jobs SET due_at = 'infinity'"))
    assert life(conn, token)[-1] == Moment(None, "held", "held until a person decides")
    conn.execute(text("UPDATE jobs SET due_at = now() - interval '1 minute', attempt = 2"))
    assert told(conn, token)[-1] == ("waiting", "waits, tried 2 times")
    conn.execute(text("UPDATE jobs SET attempt = 1"))
    assert told(conn, token)[-1] == ("waiting", "waits, tried 1 time")
    take(conn)
    assert told(conn, token)[-1] == ("in flight", "with test since then")


def test_an_attempt_of_an_older_release_tells_only_how_it_ended(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    conn.execute(text("DELETE FROM jobs"))
    old = "INSERT INTO deliveries (token, action, outcome, attempt) VALUES (:token, 'password_recovery', 'sent', 0)"
    conn.execute(text(old), {"token": token})
    assert [kind for kind, _ in told(conn, token)] == ["made", "sent", "expires"]


def test_no_address_and_no_secret_is_told(conn: Connection) -> None:
    token = enqueue_recovery(conn, prefix="ada")
    attempt(conn, token, "sent", ago="1 s")
    assert "ada" not in str(life(conn, token))


def test_a_link_that_has_ended_does_not_end_yet(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    assert "its link ends, unless it is renewed" in [each.text for each in life(conn, token)]
    conn.execute(text("UPDATE tokens SET expires_at = now() - interval '1 hour' WHERE id = :token"), {"token": token})
    assert "its link ended" in [each.text for each in life(conn, token)]
