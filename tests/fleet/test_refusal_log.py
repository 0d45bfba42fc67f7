"""What the log of refusals tells of a row of them."""

import pytest
from sqlalchemy import Connection, text

from mailroom.fleet import refusal_log
from mailroom.fleet.refusal_log import Record
from mailroom.job import Job
from mailroom.ses import classify
from tests.kinds import ACTIVATION
from tests.worker.refusing import record


def reviewed(connection: Connection, *refused: int) -> Record:
    of = [Job(token, token, ACTIVATION, 0, "", "", b"", "") for token in refused]
    return refusal_log.review(connection, ACTIVATION, classify.REFUSALS, of)


def test_a_row_is_of_different_accounts_and_ends_with_an_acceptance(conn: Connection) -> None:
    assert reviewed(conn) == Record(0, 0, frozenset(), frozenset())
    record(conn, ("rejected", 1), ("deferred", 2), ("deferred", 2))
    assert reviewed(conn).unbroken == 2
    assert reviewed(conn, 2, 3) == Record(3, 0, frozenset(), frozenset({2}))
    record(conn, ("sent", 9))
    assert reviewed(conn) == Record(0, 2, frozenset(), frozenset())
    record(conn, ("deferred", 4))
    assert reviewed(conn, 4, 5) == Record(2, 2, frozenset(), frozenset({4}))


def test_what_was_refused_before_another_was_accepted_is_bad_and_tells_nothing(conn: Connection) -> None:
    record(conn, *[("deferred", account) for account in range(1, 8)], ("sent", 9))
    assert reviewed(conn, *range(1, 8)) == Record(0, 7, frozenset(range(1, 8)), frozenset(range(1, 8)))
    record(conn, *[("rejected", account) for account in range(1, 8)])
    assert reviewed(conn, 8) == Record(1, 7, frozenset(), frozenset())


def test_what_was_refused_beside_an_acceptance_tells_nothing(conn: Connection) -> None:
    record(conn, ("sent", 9), *[("rejected", account) for account in range(1, 8)], call=7)
    assert reviewed(conn).unbroken == 0


def test_only_an_acceptance_of_now_speaks_for_the_configuration(conn: Connection) -> None:
    record(conn, *[("deferred", account) for account in range(1, 7)])
    conn.execute(
        text(
            "INSERT INTO deliveries (token, action, outcome, attempt, late, error_code) VALUES"
            " (9, 'activation', 'sent', 0, true, NULL), (9, 'activation', 'sent', 1, false, 'AcceptedLate'),"
            " (9, 'password_recovery', 'sent', 1, false, NULL)"
        )
    )
    record(conn, ("deferred", 9), ("failed", 9), codes="TokenExpired")
    assert reviewed(conn).unbroken == 6


@pytest.mark.parametrize(("survived", "enough"), [(0, 5), (2, 5), (3, 6), (20, 40), (50, 100), (70, 100)])
def test_the_longer_the_rows_that_end_the_longer_one_may_be(survived: int, enough: int) -> None:
    told = [
        Record(unbroken, survived, frozenset(), frozenset()).blames_configuration for unbroken in (enough - 1, enough)
    ]
    assert told == [False, True]
