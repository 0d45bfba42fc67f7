"""Kinds of mail as rows: another one while a worker runs, mail that is asked for, and what a template is given."""

import asyncio
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from mailroom import tokens
from mailroom.errors import TokenError
from mailroom.job import Action
from mailroom.mail.pipe import PipeTransport
from mailroom.ops import status
from mailroom.queue.lanes import Lanes
from mailroom.simulator import Simulator
from tests.claiming import claim, settle_alike, waited
from tests.cli.command import sending
from tests.cli.conftest import Here, here, ses
from tests.kinds import RECOVERY
from tests.machine import ROOT
from tests.queue.asking import SENT, over
from tests.running import eventually, transport, working
from tests.world import KEY, add_accounts, count_sent, drained, misplaced, rows, transaction

__all__ = ["here", "ses"]

ADD = (
    "INSERT INTO actions (name, number, template, path, priority, per_15_minutes, newest_only)"
    " VALUES ('change_address', 7, 'changeaddressv1', '/address', 0, 2, true)"
)
TEMPLATE = {
    "Subject": "Is this you, {{login_text}}?",
    "Text": "{{secret}} {{plan_text}} {{seats}}",
    "Html": "<p>{{secret}} {{plan}} {{seats}}</p>",
}


@pytest.fixture
def active(engine: Engine) -> Iterator[tuple[Connection, int]]:
    """An active account that the application knows as u-1."""
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active")
        connection.execute(text("UPDATE accounts SET reference = 'u-1'"))
        yield connection, account


def ask(connection: Connection, **how: Any) -> int:
    """Ask for a change of address, as an application does."""
    given = {"address": None, "data": None, "reference": "u-1"} | how
    asked = (
        "SELECT request_mail("
        "'change_address', reference => :reference, address => :address, data => CAST(:data AS jsonb))"
    )
    token: int = connection.execute(text(asked), given).scalar_one()
    return token


# Another kind


@pytest.mark.slow
def test_a_kind_that_is_added_while_a_worker_runs_is_mailed(
    active: tuple[Connection, int], engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the new address; its link for that is good, and what was for the old one is dead then."""
    connection, account = active
    simulator.templates.create("changeaddressv1", TEMPLATE)
    with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
        eventually(lambda: rows(connection, "SELECT FROM ses_account WHERE fetched_at IS NOT NULL"))
        connection.execute(text(ADD))
        data = json.dumps({"plan": "A & <b>", "seats": 3})
        ask(connection, address="new@example.com", data=data)
        eventually(lambda: count_sent(connection) == 1, "it is mailed")
    [mail] = simulator.ledger.mails
    assert mail.recipients == ("new@example.com",)
    assert mail.variables["plan"] == "A &amp; &lt;b&gt;"
    assert (mail.variables["plan_text"], mail.variables["seats"]) == ("A & <b>", 3)
    assert "code" not in mail.variables

    link = mail.variables["secret"]
    recovery = connection.execute(text("SELECT request_mail('password_recovery', :a)"), {"a": account}).scalar_one()
    for action in ("activation", "password_recovery"):
        with pytest.raises(TokenError):
            tokens.consume(connection, link, action=action, key=KEY, code="00000")
    found = tokens.consume(connection, link, action="change_address", key=KEY)
    assert tuple(found) == (account, "u-1", "new@example.com")
    with pytest.raises(TokenError):
        tokens.consume(connection, link, action="change_address", key=KEY)
    connection.execute(
        text("SELECT change_account(:id, email => :address)"), {"id": found.id, "address": found.address}
    )
    waited(connection)
    assert over(claim(connection)) == [(recovery, "cancelled", "AddressChanged")]
    assert misplaced(connection) == []


def test_it_is_limited_superseded_and_expires_as_its_row_says(active: tuple[Connection, int]) -> None:
    connection, _ = active
    connection.execute(text(ADD))
    kinds = Lanes([RECOVERY, Action("change_address", number=7, template="x", path="/address", priority=0)])
    older, newer = ask(connection), ask(connection)
    waited(connection)
    found = claim(connection, lanes=kinds)
    assert over(found) == [(older, "cancelled", "Superseded")]
    [batch] = found.batches
    assert [job.token for job in batch.jobs] == [newer]
    assert settle_alike(connection, batch, SENT)
    for _ in range(2):
        asked = ask(connection)
        waited(connection)
        found = claim(connection, lanes=kinds)
        for batch in found.batches:
            settle_alike(connection, batch, SENT)
    assert over(found) == [(asked, "cancelled", "TooMany")]

    connection.execute(text("UPDATE actions SET (per_15_minutes, life) = (NULL, '1 minute')"))
    expired = ask(connection)
    waited(connection)
    connection.execute(text("UPDATE tokens SET expires_at = now() WHERE id = :id"), {"id": expired})
    assert over(claim(connection, lanes=kinds)) == [(expired, "expired", "TokenExpired")]
    connection.execute(text("UPDATE actions SET renews = true"))
    renewed = ask(connection)
    waited(connection)
    connection.execute(text("UPDATE tokens SET expires_at = now() WHERE id = :id"), {"id": renewed})
    assert [job.token for batch in claim(connection, lanes=kinds).batches for job in batch.jobs] == [renewed]
    life = "SELECT expires_at - now() BETWEEN interval '31 s' AND interval '60 s' AS good FROM tokens WHERE id = :id"
    assert rows(connection, life, id=renewed) == [(True,)]
    assert misplaced(connection) == []


def test_limits_hold_within_one_claim_of_what_is_not_only_the_newest(active: tuple[Connection, int]) -> None:
    connection, _ = active
    connection.execute(text(ADD.replace("true", "false")))
    kinds = Lanes([Action("change_address", number=7, template="x", path="/address", priority=0)])
    asked = [ask(connection) for _ in range(8)]
    [other] = add_accounts(connection, 1, status="active", prefix="other")
    theirs = connection.execute(text("SELECT request_mail('change_address', :a)"), {"a": other}).scalar_one()
    waited(connection)
    found = claim(connection, lanes=kinds)
    assert [job.token for batch in found.batches for job in batch.jobs] == [*asked[:2], theirs]
    assert over(found) == [(token, "cancelled", "TooMany") for token in asked[2:]]
    again = ask(connection)
    waited(connection)
    assert over(claim(connection, lanes=kinds)) == [(again, "cancelled", "TooMany")]  # two are in flight
    assert misplaced(connection) == []


def test_a_mail_is_signed_as_the_row_says_when_it_leaves(active: tuple[Connection, int]) -> None:
    """Whatever a worker knew of it before."""
    connection, _ = active
    connection.execute(text(ADD))
    known = Lanes([Action("change_address", number=9, template="old", path="/old", has_code=True, priority=0)])
    ask(connection)
    waited(connection)
    [batch] = claim(connection, lanes=known).batches
    action = batch.action
    assert (action.number, action.template, action.path, action.has_code) == (7, "changeaddressv1", "/address", False)


def test_no_error_of_a_function_shows_a_row(active: tuple[Connection, int]) -> None:
    connection, account = active
    connection.execute(text(ADD))
    for call in (
        "change_account(:a, language => '!')",
        "change_account(:a, login => E'\\x01')",
        "request_mail('change_address', :a, address => 'x')",
        "request_mail('change_address', :a, data => '[]')",
        "add_account('user1@example.com', 'x')",
        "add_account('y@example.com', '')",
    ):
        with pytest.raises(IntegrityError) as error:
            connection.execute(text(f"SELECT {call}"), {"a": account})
        diag: Any = error.value.orig
        assert (diag.diag.message_detail, "user1" in str(diag)) == (None, False), call
        assert diag.diag.constraint_name


def test_what_activates_goes_to_no_other_address(conn: Connection) -> None:
    [account] = add_accounts(conn, 1)
    with pytest.raises(DBAPIError, match="proves the account's own address"):
        conn.execute(text("SELECT request_mail('activation', :a, address => 'me@example.com')"), {"a": account})


def test_rows_that_something_names_stay(engine: Engine) -> None:
    """Also what somebody asks for at that moment."""
    with (
        engine.connect() as setup,
        transaction(engine) as asking,
        transaction(engine, lock_timeout="100ms") as deleting,
    ):
        [account] = add_accounts(setup, 1, status="active")
        setup.execute(text(ADD))
        asking.execute(text("SELECT request_mail('change_address', :a)"), {"a": account})
        with pytest.raises(DBAPIError, match="lock timeout"):
            deleting.execute(text("DELETE FROM actions WHERE name = 'change_address'"))
        deleting.rollback()
        asking.commit()
        with pytest.raises(IntegrityError, match="tokens or jobs"):
            deleting.execute(text("DELETE FROM actions WHERE name = 'change_address'"))
        deleting.rollback()
        with pytest.raises(IntegrityError, match="nothing names"):
            deleting.execute(text("TRUNCATE actions"))


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_row_is_not_taken_from_what_a_snapshot_does_not_show(engine: Engine, level: str) -> None:
    """Or the mail that was asked for would never leave."""
    with engine.connect() as connection, transaction(engine, level) as deleting:
        [account] = add_accounts(connection, 1, status="active")
        connection.execute(text(ADD))
        rows(deleting, "SELECT FROM tokens")
        connection.execute(text("SELECT request_mail('change_address', :a)"), {"a": account})
        with pytest.raises(DBAPIError, match="READ COMMITTED"):
            deleting.execute(text("DELETE FROM actions WHERE name = 'change_address'"))


def test_what_links_that_are_out_rely_on_stays(conn: Connection) -> None:
    conn.execute(text(ADD))
    for change in ("name = 'x'", "number = 9", "path = '/x'", "has_code = true"):
        with pytest.raises(IntegrityError, match="are in links and lines that are out"), conn.begin_nested():
            conn.execute(text(f"UPDATE actions SET {change} WHERE name = 'change_address'"))  # noqa: S608
    conn.execute(text("UPDATE actions SET template = 'other' WHERE name = 'change_address'"))
    add_accounts(conn, 1)
    with pytest.raises(IntegrityError, match="tokens or jobs of action activation"), conn.begin_nested():
        conn.execute(text("DELETE FROM actions WHERE name = 'activation'"))
    conn.execute(text("DELETE FROM actions WHERE name = 'change_address'"))


@pytest.mark.parametrize(
    "row",
    [
        "('Change', 7, 't', '/x')",
        "('account', 7, 't', '/x')",
        "('x', 1, 't', '/x')",
        "('x', 0, 't', '/x')",
        "('x', 7, 'a b', '/x')",
        "('x', 7, 't', 'x')",
        "('x', 7, 't', '/activate')",
        "('x', 7, 't', '/x y')",
    ],
)
def test_a_row_that_could_not_be_mailed_is_refused(conn: Connection, row: str) -> None:
    with pytest.raises(IntegrityError):
        conn.execute(text("INSERT INTO actions (name, number, template, path) VALUES " + row))  # noqa: S608 - a row of this test


def test_of_several_that_activate_the_first_is_made_at_sign_up(conn: Connection) -> None:
    invitation = (
        "INSERT INTO actions (name, number, template, path, needs, activates)"
        " VALUES ('invitation', 3, 'invitationv1', '/join', 'provisioned', true)"
    )
    conn.execute(text(invitation))
    [account] = add_accounts(conn, 1)
    assert rows(conn, "SELECT action FROM tokens") == [("activation",)]
    conn.execute(text("SELECT request_mail('invitation', :a)"), {"a": account})
    [secret] = rows(conn, "SELECT secret FROM tokens WHERE action = 'invitation'")[0]
    tokens.consume(conn, tokens.sign(secret, path="/join", key=KEY), action="invitation", key=KEY)
    assert rows(conn, "SELECT status FROM accounts") == [("active",)]
    waited(conn)
    assert [code for _, _, code in over(claim(conn))] == ["AccountStatus"]


def test_an_account_that_is_invited_gets_no_activation_mail(conn: Connection) -> None:
    invited = "SELECT add_account('a@example.com', 'a', mails => false, language => 'de')"
    account = conn.execute(text(invited)).scalar_one()
    assert rows(conn, "SELECT FROM tokens") == []
    conn.execute(text("SELECT add_account('b@example.com', 'b')"))
    assert rows(conn, "SELECT action FROM tokens") == [("activation",)]
    changed = "SELECT change_account(:id, language => '', new_reference => 'u-2')"
    assert conn.execute(text(changed), {"id": account}).scalar_one()
    assert rows(conn, "SELECT language, reference FROM accounts WHERE id = :id", id=account) == [(None, "u-2")]


INVITING = """
CREATE FUNCTION invite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.login <> 'other' THEN
        PERFORM mailroom.request_mail('invitation', NEW.id);
        PERFORM mailroom.add_account('other@example.com', 'other');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER invite AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION invite();
"""


def test_what_a_trigger_of_the_application_asks_for_is_mailed_all_the_same(conn: Connection) -> None:
    conn.execute(
        text(
            "INSERT INTO actions (name, number, template, path, needs)"
            " VALUES ('invitation', 102, 'invitationv1', '/invitation', 'provisioned')"
        )
    )
    conn.execute(text(INVITING))

    conn.execute(text("SELECT add_account('grace@example.com', 'grace', mails => false)"))

    found = rows(
        conn,
        "SELECT login, jobs.action FROM jobs JOIN tokens ON token = tokens.id"
        " JOIN accounts ON account = accounts.id ORDER BY login",
    )
    assert found == [("grace", "invitation"), ("other", "activation")]
    assert misplaced(conn) == []


NUMBERING = """
CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 1000; RETURN NEW; END $$;
CREATE TRIGGER number BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION number();
"""


def test_an_invited_account_gets_none_either_if_a_trigger_gives_it_its_id(conn: Connection) -> None:
    conn.execute(text(NUMBERING))
    for login, mails in (("a", False), ("b", True), ("c", False)):
        add = "SELECT add_account(:login || '@example.com', :login, mails => :mails)"
        account = conn.execute(text(add), {"login": login, "mails": mails}).scalar_one()
        assert rows(conn, "SELECT login FROM accounts WHERE id = :id", id=account) == [(login,)]
    conn.execute(text("INSERT INTO accounts (email, login) VALUES ('d@example.com', 'd')"))

    mailed = "SELECT login FROM accounts JOIN tokens ON account = accounts.id ORDER BY login"
    assert rows(conn, mailed) == [("b",), ("d",)]


def test_who_revokes_waits_for_who_has_the_account(engine: Engine) -> None:
    """As who consumes does, or removes it: so all lock in one order."""
    with transaction(engine) as other, transaction(engine, lock_timeout="50ms") as mine:
        [account] = add_accounts(other, 1)
        other.commit()
        other.execute(text("SELECT FROM accounts FOR NO KEY UPDATE"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            mine.execute(text("SELECT revoke_tokens(:account)"), {"account": account})


def test_who_misspells_an_action_is_told_that_nothing_is_revoked(active: tuple[Connection, int]) -> None:
    connection, account = active
    connection.execute(text("SELECT request_mail('password_recovery', :account)"), {"account": account})
    with pytest.raises(DBAPIError, match="there is no action password_recvery"):
        connection.execute(text("SELECT revoke_tokens(:account, action => 'password_recvery')"), {"account": account})
    revoke = text("SELECT revoke_tokens(:account, action => 'password_recovery')")
    assert [connection.scalar(revoke, {"account": account}) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("named", ["account => -1", "reference => 'u-11'"])
def test_who_names_an_account_that_there_is_not_is_told_that_nothing_is_revoked(
    active: tuple[Connection, int], named: str
) -> None:
    connection, account = active
    for call in (f"request_mail('password_recovery', {named})", f"revoke_tokens({named})"):
        with pytest.raises(DBAPIError, match="there is no such account") as refused:
            connection.execute(text(f"SELECT {call}"))
        assert getattr(refused.value.orig, "sqlstate", None) == "P0002"
    assert connection.scalar(text("SELECT revoke_tokens(:account)"), {"account": account}) == 0


IMPORTING = """
CREATE TABLE people (login text);
CREATE FUNCTION take_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mailroom.add_account(NEW.login || '@example.com', NEW.login, mails => false);
    INSERT INTO mailroom.accounts (email, login) VALUES (NEW.login || '@example.org', NEW.login || ' at home');
    RETURN NULL;
END $$;
CREATE TRIGGER take_over AFTER INSERT ON people FOR EACH ROW EXECUTE FUNCTION take_over();
INSERT INTO people VALUES ('ada'), ('bob');
"""
PAIRING = """
CREATE FUNCTION pair() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.login = 'ada' THEN
        PERFORM mailroom.add_account('bob@example.com', 'bob', mails => false);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER pair BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION pair();
SELECT add_account('ada@example.com', 'ada', mails => false);
INSERT INTO accounts (email, login) VALUES ('eve@example.com', 'eve');
"""


@pytest.mark.parametrize(("script", "mailed"), [(IMPORTING, ["ada at home", "bob at home"]), (PAIRING, ["eve"])])
def test_a_trigger_of_the_application_may_add_accounts_that_get_none(
    conn: Connection, script: str, mailed: list[str]
) -> None:
    conn.execute(text(script))
    found = rows(conn, "SELECT login FROM accounts JOIN tokens ON account = accounts.id ORDER BY login")
    assert [row.login for row in found] == mailed


def test_no_code_of_ours_names_a_kind() -> None:
    named = re.compile(r"\b(activation|password_recovery)\b", re.IGNORECASE)
    allowed = {"cli/app.py", "cli/actions.py"}  # what help shows as an example
    found = [
        (str(file.relative_to(ROOT)), line)
        for suffix in ("py", "sql")
        for file in sorted((ROOT / "mailroom").rglob(f"*.{suffix}"))
        if file.relative_to(ROOT / "mailroom").parts[0] != "demo"
        and str(file.relative_to(ROOT / "mailroom")) not in allowed
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(rf"['\"]{named.pattern}['\"]", line)
    ]
    assert found == []


# What is asked for


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("request_mail('activation', reference => 'nobody')", "no such account"),
        ("request_mail('activation', 4711)", "no such account"),
        ("request_mail('nothing', 1)", "no action nothing"),
        ("request_mail('activation')", "by its id or by its reference"),
        ("request_mail('activation', 1, 'u-1')", "by its id or by its reference"),
        ("request_mail('password_recovery', reference => 'u-1', address => 'no address')", "tokens_address"),
        ("request_mail('password_recovery', reference => 'u-1', address => E'a@b\\n.c')", "tokens_address"),
    ],
)
def test_what_cannot_be_mailed_is_not_asked_for(active: tuple[Connection, int], call: str, why: str) -> None:
    connection, _ = active
    with pytest.raises(DBAPIError, match=why):
        connection.execute(text(f"SELECT {call}"))
    assert rows(connection, "SELECT FROM jobs") == []


@pytest.mark.parametrize(
    "data",
    [
        "[]",
        "1",
        '"x"',
        "null",
        '{"login": "x"}',
        '{"secret": "x"}',
        '{"code": "1"}',
        '{"plan_text": "x"}',
        '{"": "x"}',
        '{"a b": "x"}',
        '{"a.b": "x"}',
        '{"a": {"b": 1}}',
        '{"a": ["b"]}',
        '{"a": null}',
        '{"a": "x\\r\\nBcc: y"}',
        '{"a": 1e400}',
        json.dumps({"a": "x" * 2048}),
    ],
)
def test_data_that_no_template_should_be_given_is_refused(active: tuple[Connection, int], data: str) -> None:
    connection, _ = active
    connection.execute(text(ADD))
    with pytest.raises(IntegrityError, match="tokens_data_fills_a_template"):
        ask(connection, data=data)


def test_data_has_no_place_in_a_line(active: tuple[Connection, int], engine: Engine, tmp_path: Path) -> None:
    connection, _ = active
    connection.execute(text(ADD.replace("true", "false")))
    ask(connection, data='{"plan": "x"}')
    ask(connection)
    with (
        (tmp_path / "lines").open("wb", buffering=0) as lines,
        working(engine, PipeTransport(lines), sweep_interval=0.2),
    ):
        eventually(lambda: drained(connection), "both are finished")
    ended = rows(connection, "SELECT outcome, error_code FROM deliveries ORDER BY token")
    assert ended == [("rejected", "DataInLine"), ("sent", None)]
    assert (tmp_path / "lines").read_text(encoding="utf-8").startswith("7,user1@example.com,user1,")


@pytest.mark.parametrize("value", ["<script>", "\"'&", "{{secret}}", "\u00a0", "Łukasz", "\\"])
def test_a_string_of_data_is_inert_in_html_and_raw_in_text(
    active: tuple[Connection, int],
    engine: Engine,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    connection, _ = active
    connection.execute(text(ADD))
    simulator.templates.create("changeaddressv1", TEMPLATE)
    ask(connection, data=json.dumps({"plan": value, "seats": 1}))
    with working(engine, transport(simulator, monkeypatch), sweep_interval=0.2):
        eventually(lambda: count_sent(connection) == 1, "it is mailed")
    [mail] = simulator.ledger.mails
    assert (mail.variables["plan"], mail.variables["plan_text"]) == (html.escape(value), value)


@pytest.mark.parametrize("call", ["change_account({}, login => 'x')", "remove_account({})", "revoke_tokens({})"])
def test_an_account_is_named_once(active: tuple[Connection, int], call: str) -> None:
    connection, account = active
    for named in (f"{account}, 'u-1'", "NULL"):
        with pytest.raises(DBAPIError, match="by its id or by its reference"):
            connection.execute(text(f"SELECT {call.format(named)}"))
    assert rows(connection, f"SELECT CAST({call.format(account)} AS int) IN (0, 1) AS done") == [(True,)]


# Accounts of several tenants, and keys of the application's own


def test_an_address_is_one_account_in_each_tenant(conn: Connection) -> None:
    add = "SELECT add_account('ada@example.com', 'ada', tenant => :tenant, reference => :reference)"
    first = conn.execute(text(add), {"tenant": "a", "reference": "1"}).scalar_one()
    second = conn.execute(text(add), {"tenant": "b", "reference": "2"}).scalar_one()
    assert first != second
    for tenant, reference in (("a", "3"), ("c", "1")):
        with pytest.raises(IntegrityError), conn.begin_nested():
            conn.execute(text(add), {"tenant": tenant, "reference": reference})


@pytest.mark.parametrize("language", ["en", "pt-BR", "zh-Hant-TW", "sr-Latn-RS"])
def test_a_language_is_a_tag(conn: Connection, language: str) -> None:
    conn.execute(text("SELECT add_account('a@b.c', 'a', language => :l)"), {"l": language})
    assert rows(conn, "SELECT language FROM accounts") == [(language,)]


@pytest.mark.parametrize("language", ["", "e", "en_GB", "../en", "en-", "en-toolongone1"])
def test_what_is_no_tag_is_refused(conn: Connection, language: str) -> None:
    with pytest.raises(IntegrityError, match="accounts_language_tag"):
        conn.execute(text("SELECT add_account('a@b.c', 'a', language => :l)"), {"l": language})


# Consumed by an application that is asynchronous


def test_a_link_is_consumed_on_an_async_connection(url: str, active: tuple[Connection, int]) -> None:
    connection, account = active
    token = connection.execute(text("SELECT request_mail('password_recovery', :a)"), {"a": account}).scalar_one()
    [(secret, code)] = rows(connection, "SELECT secret, code FROM tokens WHERE id = :t", t=token)
    link = tokens.sign(secret, path="/recover", key=KEY, code=code)
    given: dict[str, Any] = {"action": "password_recovery", "key": KEY}

    async def consume() -> tokens.Account:
        engine = create_async_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(url))
        try:
            async with engine.begin() as own:
                with pytest.raises(TokenError):
                    await tokens.consume_async(own, link, code=f"{(int(code) + 1) % 100_000:05}", **given)
                return await tokens.consume_async(own, link, code=code, **given)
        finally:
            await engine.dispose()

    assert asyncio.run(consume()) == (account, "u-1", "user1@example.com")
    assert rows(connection, "SELECT made FROM guesses") == [(2,)]


def test_a_key_is_read_from_hex() -> None:
    assert tokens.key(KEY.hex()) == tokens.key(KEY.hex().upper()) == KEY
    for words in ("", KEY.hex()[1:], KEY.hex() + "0", "g" * 64, KEY.hex() + "\n"):
        with pytest.raises(ValueError, match="64 hex digits") as error:
            tokens.key(words)
        assert "deadbeef" not in str(error.value)


def test_an_action_that_is_not_there_is_a_fault_of_the_caller(conn: Connection) -> None:
    with pytest.raises(ValueError, match="no action 'nothing'"):
        tokens.consume(conn, "x" * 85 + "Q", action="nothing", key=KEY)


# What an operator sees of it


@pytest.mark.slow
def test_an_operator_adds_changes_and_lists_kinds(
    here: Here, ses: Simulator, url: str, active: tuple[Connection, int]
) -> None:
    connection, _ = active
    env = sending(url, ses) | {"MAILROOM_SES_SOURCE": "Ada <noreply@mail.example.com>"}
    new = ("actions", "add", "magic_link", "--template", "magiclinkv1", "--path", "/enter")
    printed = here(*new, "--number", "3", "--life", "2h", "--per-day", "5", "--sql", env=env)
    assert printed.code == 0
    assert printed.out.startswith('INSERT INTO "mailroom"."actions" ("name", "number", ')
    here(*new, "--sql", env=env).assert_one_line(2, "--number")
    connection.execution_options(no_parameters=True).exec_driver_sql(printed.out)
    assert here(*new, env=env).err.startswith("mailroom: the database does not accept it: duplicate key")
    assert here("actions", "set", "magic_link", "--per-day", "none", "--newest-only", "--life", "1d", env=env).code == 0
    listed = json.loads(here("actions", "list", "--json", env=env).out)
    assert [row["name"] for row in listed] == ["activation", "password_recovery", "magic_link"]
    assert listed[2] == {
        "name": "magic_link",
        "number": 3,
        "template": "magiclinkv1",
        "path": "/enter",
        "life_seconds": 86400.0,
        "has_code": False,
        "priority": 1,
        "needs": "active",
        "renews": False,
        "newest_only": True,
        "per_15_minutes": None,
        "per_day": None,
        "activates": False,
    }
    lines = here("actions", "list", env=env).out.splitlines()
    assert any("magic_link" in line and "1 day" in line and "newest-only" in line for line in lines)
    assert here("actions", "add", "x", "--template", "t", "--path", "/x", env=env).out == "added x with the number 4\n"
    doctor = here("doctor", env=env).out
    assert "failed  template magiclinkv1: does not exist" in doctor
    connection.execute(text("SELECT request_mail('magic_link', reference => 'u-1')"))
    assert [row.action for row in status.read(connection).waiting] == ["magic_link"]
    assert "magic_link" in here("jobs", "list", env=env).out
    assert here("pause", "magic_link", env=env).out == "paused magic_link\n"
    assert claim(connection).batches == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "nothing", "--per-day", "1"), (1, "no action nothing")),
        (("set", "activation"), (2, "name what is to be different")),
        (("set", "activation", "--life", "soon"), (2, "--life", "15m")),
        (("set", "activation", "--life", "1s"), (2, "--life is a minute to 366 days")),
        (("set", "activation", "--per-day", "-1"), (2, "--per-day")),
        (("set", "activation", "--priority", "quarantine"), (2, "--priority")),
        (("set", "activation", "--needs", "gone"), (2, "--needs")),
        (("add", "account", "--template", "t", "--path", "/x"), (2, "actions_name_scope", "NAME must not be account")),
        (("add", "Sign_in", "--template", "t", "--path", "/x"), (2, "NAME has at most 50 lower-case letters")),
        (("add", "x", "--template", "t", "--path", "x"), (2, "--path begins with /")),
        (("add", "x", "--template", "t t", "--path", "/x"), (2, "--template has 1 to 64 letters")),
        (("add", "x", "--template", "t", "--path", "/activate"), (2, "another action has this --path")),
        (("add", "x", "--template", "t", "--path", "/x", "--number", "2"), (2, "another action has this --number")),
        (("add", "activation", "--template", "t", "--path", "/x"), (2, "there is an action with this NAME")),
        (("add", "x", "--template", "t", "--path", "/x", "--activates"), (2, "--needs provisioned")),
    ],
)
def test_what_no_row_can_say_is_told_in_a_line(
    here: Here, url: str, arguments: tuple[str, ...], words: tuple[Any, ...]
) -> None:
    here("actions", *arguments, env={"MAILROOM_DATABASE_URL": url}).assert_one_line(*words)
