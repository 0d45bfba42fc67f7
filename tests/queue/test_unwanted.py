"""Who is asked not to be mailed: what a claim ends without a mail, and what it gives its life back."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.job import Action
from tests.claiming import (
    claim,
    enqueue,
    enqueue_recovery,
    log,
    take,
    tokens_of,
    waited,
    waiting,
)
from tests.kinds import ACTIONS, ACTIVATION
from tests.world import misplaced, rows, transaction

THROUGH_PGBOUNCER = True


@pytest.mark.parametrize(
    ("change", "outcome", "code"),
    [
        ("DELETE FROM tokens", "cancelled", "TokenGone"),
        ("DELETE FROM accounts", "cancelled", "TokenGone"),
        ("UPDATE tokens SET consumed_at = now()", "cancelled", "TokenConsumed"),
        ("UPDATE accounts SET status = 'suspended'", "cancelled", "AccountStatus"),
    ],
)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_mail_that_nobody_wants_any_more_is_not_sent(
    conn: Connection, action: Action, change: str, outcome: str, code: str
) -> None:
    token = enqueue(conn)[0] if action == ACTIVATION else enqueue_recovery(conn)
    conn.execute(text(change))

    claimed = claim(conn)

    assert not claimed.batches
    assert [(job.token, job.action, job.outcome, job.error_code) for job in claimed.finished] == [
        (token, action, outcome, code)
    ]
    [row] = rows(conn, "SELECT token, action, outcome, error_code, late, batch FROM deliveries")
    assert tuple(row) == (token, action, outcome, code, False, None)
    assert (waiting(conn), rows(conn, "SELECT FROM batches"), misplaced(conn)) == ([], [], [])


@pytest.mark.parametrize("status", ["active", "suspended"])
def test_an_activation_is_for_a_provisioned_account(conn: Connection, status: str) -> None:
    enqueue(conn)
    conn.execute(text("UPDATE accounts SET status = CAST(:status AS account_status)"), {"status": status})
    assert [job.error_code for job in claim(conn).finished] == ["AccountStatus"]


@pytest.mark.parametrize("status", ["provisioned", "suspended"])
def test_a_recovery_is_for_an_active_account(conn: Connection, status: str) -> None:
    enqueue_recovery(conn)
    conn.execute(text("UPDATE accounts SET status = CAST(:status AS account_status)"), {"status": status})
    assert [job.error_code for job in claim(conn).finished] == ["AccountStatus"]


def test_a_recovery_that_ran_out_while_it_waited_is_expired(conn: Connection) -> None:
    token = enqueue_recovery(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now()"))
    claimed = claim(conn)
    assert not claimed.batches
    assert [(job.outcome, job.error_code) for job in claimed.finished] == [("expired", "TokenExpired")]
    assert log(conn) == [(token, "expired", 0, False)]
    assert misplaced(conn) == []


def test_those_that_are_over_do_not_keep_the_others(conn: Connection) -> None:
    tokens = enqueue(conn, 4)
    conn.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = :id"), {"id": tokens[1]})
    conn.execute(text("DELETE FROM tokens WHERE id = :id"), {"id": tokens[3]})

    claimed = claim(conn)

    [batch] = claimed.batches
    assert tokens_of(batch) == [tokens[0], tokens[2]]
    assert [job.token for job in claimed.finished] == [tokens[1], tokens[3]]
    assert misplaced(conn) == []


LIFE = timedelta(minutes=15)


@pytest.mark.parametrize(
    ("left", "renewed"),
    [
        (timedelta(minutes=-600), True),
        (timedelta(0), True),
        (LIFE / 2 - timedelta(seconds=1), True),
        (LIFE / 2 + timedelta(seconds=1), False),
    ],
)
def test_a_late_activation_gets_its_life_back(conn: Connection, left: timedelta, renewed: bool) -> None:
    tokens = enqueue(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now() + :left"), {"left": left})
    assert tokens_of(take(conn)) == tokens
    [row] = rows(conn, "SELECT expires_at - now() AS left FROM tokens")
    assert row.left == (LIFE if renewed else left)


def test_a_mail_for_an_address_that_is_no_more_is_not_sent(conn: Connection) -> None:
    """The token proves the address that it was made for: whoever has the new one did not ask for it."""
    enqueue(conn, 2)
    conn.execute(text("UPDATE accounts SET email = 'other@example.com' WHERE email LIKE '%1@%'"))
    conn.execute(text("UPDATE accounts SET email = upper(email) WHERE email LIKE '%2@%'"))  # the same mailbox
    found = claim(conn)
    assert [len(batch.jobs) for batch in found.batches] == [1]
    assert [job.error_code for job in found.finished] == ["AddressChanged"]
    assert misplaced(conn) == []


def test_an_activation_older_than_one_that_was_consumed_is_not_sent(conn: Connection) -> None:
    [older] = enqueue(conn)
    newer = "INSERT INTO tokens (action, account, consumed_at) SELECT 'activation', account, now() FROM tokens"
    conn.execute(text(newer))
    conn.execute(text("UPDATE accounts SET status = 'provisioned', activated_at = now()"))
    conn.execute(text("DELETE FROM jobs WHERE token <> :older"), {"older": older})
    found = claim(conn)
    assert (found.batches, [job.error_code for job in found.finished]) == ((), ["Superseded"])


def test_one_older_than_another_that_nobody_consumed_is(conn: Connection) -> None:
    [older] = enqueue(conn)
    conn.execute(text("INSERT INTO tokens (action, account) SELECT 'activation', account FROM tokens"))
    conn.execute(text("UPDATE accounts SET status = 'provisioned', activated_at = now()"))
    waited(conn)
    assert tokens_of(take(conn))[0] == older


def test_a_recovery_is_not_extended(conn: Connection) -> None:
    enqueue_recovery(conn)
    conn.execute(text("UPDATE tokens SET expires_at = now() + interval '1 second'"))
    take(conn)
    [row] = rows(conn, "SELECT expires_at - now() AS left FROM tokens")
    assert row.left == timedelta(seconds=1)


def test_a_late_activation_whose_token_somebody_has_locked_waits_and_is_never_mailed_dead(engine: Engine) -> None:
    with transaction(engine) as setup:
        tokens = enqueue(setup, 2)
        setup.execute(text("UPDATE tokens SET expires_at = now()"))
        setup.commit()
    with transaction(engine) as holder, transaction(engine, lock_timeout="30s") as claimer:
        holder.execute(text("SELECT FROM tokens WHERE id = :id FOR UPDATE"), {"id": tokens[0]})
        assert tokens_of(take(claimer)) == [tokens[1]]
        assert waiting(claimer) == [(tokens[0], 0, 1)]
        assert misplaced(claimer) == []
        claimer.commit()
        holder.commit()
        waited(claimer)
        assert tokens_of(take(claimer)) == [tokens[0]]
        assert rows(claimer, "SELECT FROM tokens WHERE expires_at < now()") == []


REFUSING = """
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refuse}; RETURN NEW; END $$;
CREATE TRIGGER keep BEFORE UPDATE ON tokens FOR EACH ROW WHEN (OLD.id = {token}) EXECUTE FUNCTION keep();
"""


@pytest.mark.parametrize(
    "refusing",
    [
        REFUSING.replace("{refuse}", "RAISE 'it is as it is'"),
        REFUSING.replace("{refuse}", "RETURN NULL"),
        REFUSING.replace("{refuse}", "RAISE 'it is as it is'")
        .replace("BEFORE", "AFTER")
        .replace("TRIGGER keep AFTER", "CONSTRAINT TRIGGER keep AFTER")
        .replace("tokens FOR", "tokens DEFERRABLE INITIALLY DEFERRED FOR"),
        "ALTER TABLE tokens ADD CHECK (id <> {token} OR expires_at <= now()) NOT VALID",
    ],
    ids=["raises", "drops", "raises in the end", "checks"],
)
def test_a_late_activation_that_the_application_lets_nobody_renew_holds_up_no_others(
    conn: Connection, refusing: str
) -> None:
    tokens = enqueue(conn, 4)
    conn.execute(text("UPDATE tokens SET expires_at = now()"))
    conn.execute(text(refusing.format(token=tokens[1])))

    assert tokens_of(take(conn)) == [tokens[0], *tokens[2:]]
    assert [token for token, _, _ in waiting(conn)] == [tokens[1]]
    assert misplaced(conn) == []


@pytest.mark.parametrize("moment", ["-infinity", "infinity", "0044-03-15 BC"])
def test_a_token_of_any_moment_holds_up_no_others_while_somebody_has_locked_it(engine: Engine, moment: str) -> None:
    """PostgreSQL 15 takes no infinite moment off another one."""
    with transaction(engine) as setup:
        tokens = enqueue(setup, 2)
        made = text("UPDATE tokens SET expires_at = now(), created_at = CAST(:moment AS timestamptz)")
        setup.execute(made, {"moment": moment})
        setup.commit()
    with transaction(engine) as holder, transaction(engine, lock_timeout="30s") as claimer:
        holder.execute(text("SELECT FROM tokens WHERE id = :id FOR UPDATE"), {"id": tokens[0]})
        assert tokens_of(take(claimer)) == [tokens[1]]
        soon = "SELECT due_at - now() BETWEEN interval '1 second' AND interval '30 seconds' FROM jobs"
        assert rows(claimer, soon) == [(True,)]


@pytest.mark.parametrize(
    "refusing",
    [
        "ALTER TABLE deliveries ADD CHECK (token <> {token}) NOT VALID",
        "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        " CREATE TRIGGER drop_it BEFORE INSERT ON deliveries FOR EACH ROW WHEN (NEW.token = {token})"
        " EXECUTE FUNCTION drop_it()",
    ],
    ids=["checks", "drops"],
)
def test_one_whose_end_the_application_lets_nobody_record_holds_up_no_others(conn: Connection, refusing: str) -> None:
    tokens = enqueue(conn, 4)
    conn.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = ANY (:ids)"), {"ids": tokens[:2]})
    conn.execute(text(refusing.format(token=tokens[0])))

    assert tokens_of(take(conn, batch_limit=3)) == [tokens[2]]
    assert waiting(conn) == [(tokens[0], 0, 30), (tokens[3], 0, -60)]
    assert [outcome for _, outcome, *_ in log(conn)] == ["cancelled"]
    assert misplaced(conn) == []
