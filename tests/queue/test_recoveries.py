"""Recovery mails to one account: the newest alone, and no more than its share."""

import pytest
from sqlalchemy import Connection, text

from mailroom import queue
from mailroom.outcome import Deferred, Outcome, Rejected, Unconfirmed
from tests.claiming import batch_of, claim, settle_alike, take, waited
from tests.kinds import limit_recoveries
from tests.queue.asking import SENT, active, ask, mail, mailed, over
from tests.world import add_accounts, misplaced

THROUGH_PGBOUNCER = True

UNCONFIRMED = Unconfirmed("ReadTimeout", "no answer")


def age(connection: Connection, minutes: int) -> None:
    """Let all that was delivered have been delivered so much earlier."""
    earlier = "UPDATE deliveries SET created_at = created_at - make_interval(mins => :minutes)"
    connection.execute(text(earlier), {"minutes": minutes})


def refused(connection: Connection, account: int, *limits: int) -> bool:
    """Ask once more; whether that is refused for its number."""
    if limits:
        limit_recoveries(connection, *limits)
    [token] = ask(connection, account)
    found = claim(connection)
    assert (mailed(found), over(found)) in [([token], []), ([], [(token, "cancelled", "TooMany")])]
    return not found.batches


# The newest alone


def test_of_the_recoveries_that_wait_only_the_newest_is_mailed(conn: Connection) -> None:
    first, second, newest = ask(conn, active(conn), 3)

    found = claim(conn)

    assert mailed(found) == [newest]
    assert over(found) == [(first, "cancelled", "Superseded"), (second, "cancelled", "Superseded")]
    assert misplaced(conn) == []


def test_recoveries_of_other_accounts_supersede_nothing(conn: Connection) -> None:
    ada, bob = add_accounts(conn, 2, status="active")
    tokens = ask(conn, ada) + ask(conn, bob)
    assert mailed(claim(conn)) == tokens


def test_an_activation_neither_supersedes_nor_is_superseded(conn: Connection) -> None:
    """Not even one that an application made twice for an account."""
    [account] = add_accounts(conn, 1)
    conn.execute(text("INSERT INTO tokens (action, account) VALUES ('activation', :account)"), {"account": account})
    waited(conn)
    assert len(mailed(claim(conn))) == 2

    account = active(conn, "known")
    [recovery] = ask(conn, account)
    conn.execute(text("INSERT INTO tokens (action, account) VALUES ('activation', :account)"), {"account": account})
    assert mailed(claim(conn)) == [recovery]


def test_a_recovery_that_comes_back_is_superseded_by_what_was_asked_meanwhile(conn: Connection) -> None:
    account = active(conn)
    [old] = ask(conn, account)
    assert settle_alike(conn, take(conn), Deferred("TransientFailure", "later", charged=True))

    [new] = ask(conn, account)
    found = claim(conn)

    assert (mailed(found), over(found)) == ([new], [(old, "cancelled", "Superseded")])
    assert misplaced(conn) == []


def test_a_deleted_recovery_supersedes_nothing(conn: Connection) -> None:
    old, new = ask(conn, active(conn), 2)
    conn.execute(text("DELETE FROM tokens WHERE id = :new"), {"new": new})
    found = claim(conn)
    assert (mailed(found), over(found)) == ([old], [(new, "cancelled", "TokenGone")])


# Its share


def test_an_account_gets_three_mails_in_a_quarter_of_an_hour(conn: Connection) -> None:
    account, other = add_accounts(conn, 2, status="active")
    mail(conn, account, 3)

    assert refused(conn, account)
    assert not refused(conn, other)
    assert misplaced(conn) == []

    age(conn, 15)
    assert not refused(conn, account)


def test_an_account_gets_ten_mails_a_day(conn: Connection) -> None:
    account = active(conn)
    for _ in range(5):
        mail(conn, account, 2)
        age(conn, 16)
    assert refused(conn, account)

    age(conn, 24 * 60 - 16 * 5)
    assert not refused(conn, account)


def test_mails_in_flight_count(conn: Connection) -> None:
    account = active(conn)
    batches = []
    for _ in range(3):
        ask(conn, account)
        batches.append(batch_of(claim(conn)))
    assert refused(conn, account)

    assert batches[0] is not None
    assert queue.settle(conn, [(batches[0], [])])  # and given back they do not
    conn.execute(text("DELETE FROM jobs"))
    assert not refused(conn, account)


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (SENT, True),
        (UNCONFIRMED, True),
        (Rejected("MessageRejected", "no"), False),
        (Deferred("TransientFailure", "later", charged=True), False),
        (Deferred("Throttled", "later", charged=False), False),
    ],
)
def test_what_counts_is_what_may_have_reached_somebody(conn: Connection, outcome: Outcome, counts: bool) -> None:
    account = active(conn)
    ask(conn, account)
    assert settle_alike(conn, take(conn), outcome)
    conn.execute(text("DELETE FROM jobs"))  # what is to be tried again would only be superseded

    assert refused(conn, account, 1, 10) == counts


def test_what_was_refused_does_not_count(conn: Connection) -> None:
    account = active(conn)
    mail(conn, account, 3)
    assert all(refused(conn, account) for _ in range(4))
    age(conn, 15)
    assert not refused(conn, account, 1, 4)


def test_a_mail_that_may_be_out_does_not_stand_in_its_own_way(conn: Connection) -> None:
    """Whatever the limit: refusing to send it again could lose it."""
    [token] = ask(conn, active(conn))
    for _ in range(3):
        limit_recoveries(conn, 1, 1)
        found = claim(conn)
        assert mailed(found) == [token]
        [batch] = found.batches
        assert settle_alike(conn, batch, UNCONFIRMED)
        waited(conn)


def test_copies_of_a_mail_count_as_one(conn: Connection) -> None:
    account = active(conn)
    ask(conn, account)
    for outcome in (UNCONFIRMED, UNCONFIRMED, SENT):
        assert settle_alike(conn, take(conn), outcome)
        waited(conn)
    assert not refused(conn, account, 2, 2)


def test_an_account_can_be_allowed_none(conn: Connection) -> None:
    assert refused(conn, active(conn), 0, 10)
    assert refused(conn, active(conn, "other"), 3, 0)


@pytest.mark.parametrize("table", ["deliveries", "batches"])
def test_mails_of_the_time_before_the_clock_was_set_back_do_not_count(conn: Connection, table: str) -> None:
    """Or somebody who had his share could recover nothing for as long as it was set back by."""
    account = active(conn)
    if table == "deliveries":
        mail(conn, account, 3)
        conn.execute(text("UPDATE deliveries SET created_at = created_at + interval '1 hour'"))
    else:
        for _ in range(3):
            [token] = ask(conn, account)
            assert mailed(claim(conn)) == [token]
        conn.execute(text("UPDATE batches SET claimed_at = claimed_at + interval '1 hour'"))
    [token] = ask(conn, account)
    assert mailed(claim(conn)) == [token]
