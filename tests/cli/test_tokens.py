"""`tokens verify` and `tokens sign`: links by hand."""

import base64
import hmac
import os

import pytest
from sqlalchemy import Engine, text

from mailroom.tokens import consume, sign
from tests.cli.command import Ended, end, killed_after, start
from tests.cli.conftest import Here
from tests.kinds import ACTIVATION, RECOVERY
from tests.machine import closed_port
from tests.world import KEY, KEY_HEX, add_accounts, ask_recovery, rows

INVALID = "mailroom: the token is not valid\n"
NO_DATABASE = {"MAILROOM_SECRET_KEY": KEY_HEX}
SECRET = bytes(range(32))
OF_ACTIVATION = ("--path", "/activate")
OF_RECOVERY = ("--path", "/recover")
ACTIVATE = sign(SECRET, path=ACTIVATION.path, key=KEY)
RECOVER = sign(SECRET, path=RECOVERY.path, key=KEY, code="01234")


def other(character: str) -> str:
    return "A" if character != "A" else "B"


def test_a_token_is_an_argument_or_a_line_of_input(here: Here) -> None:
    for arguments in (["-"], []):
        ended = here("tokens", "verify", *OF_ACTIVATION, *arguments, env=NO_DATABASE, stdin=f"{ACTIVATE}\n".encode())
        assert (ended.code, ended.out, ended.err) == (0, "signature valid for /activate\n", "")
    assert here("tokens", "verify", *OF_ACTIVATION, ACTIVATE, env=NO_DATABASE).out == "signature valid for /activate\n"


def test_a_recovery_needs_its_code(here: Here) -> None:
    ended = here("tokens", "verify", *OF_RECOVERY, RECOVER, "--code", "01234", env=NO_DATABASE)
    assert (ended.code, ended.out) == (0, "signature valid for /recover\n")
    for code in ([], ["--code", "01235"], ["--code", "1234"], ["--code", ""]):
        ended = here("tokens", "verify", *OF_RECOVERY, RECOVER, *code, env=NO_DATABASE)
        assert (ended.code, ended.out, ended.err) == (1, "", INVALID)


@pytest.mark.parametrize("action", ["activation", "password_recovery"])
def test_what_sign_prints_verify_reads(here: Here, url: str, engine: Engine, action: str) -> None:
    """As `--help` has it: a code comes on a second line."""
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1, status="active" if action == "password_recovery" else "provisioned")
        if action == "password_recovery":
            ask_recovery(connection, account)
        [(token,)] = rows(connection, "SELECT id FROM tokens")
    env = {"MAILROOM_DATABASE_URL": url, **NO_DATABASE}
    signed = here("tokens", "sign", str(token), env=env).out
    ended = here("tokens", "verify", env=env, stdin=signed.encode())
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"signature valid for {action}\ntoken {token} of account {account}: good until")
    lines = signed.splitlines()
    if lines[1:]:
        wrong = f"{lines[0]}\n{(int(lines[1]) + 1) % 100_000:05}\n"
        assert here("tokens", "verify", env=env, stdin=wrong.encode()).err == INVALID


def test_of_several_keys_the_first_signs_and_all_verify(here: Here, url: str, engine: Engine) -> None:
    new = "11" * 32
    assert here("tokens", "verify", *OF_ACTIVATION, ACTIVATE, env={"MAILROOM_SECRET_KEY": f"{new},{KEY_HEX}"}).code == 0
    assert here("tokens", "verify", *OF_ACTIVATION, ACTIVATE, env={"MAILROOM_SECRET_KEY": new}).err == INVALID

    with engine.connect() as connection:
        add_accounts(connection, 1)
        [(token, secret)] = rows(connection, "SELECT id, secret FROM tokens")
    rotating = {"MAILROOM_SECRET_KEY": f"{new},{KEY_HEX}", "MAILROOM_DATABASE_URL": url}
    signed = here("tokens", "sign", str(token), env=rotating).out.strip()
    assert signed == sign(secret, path=ACTIVATION.path, key=bytes.fromhex(new))


def test_a_token_may_begin_with_a_hyphen(here: Here) -> None:
    secret = b"\xfb" + bytes(31)
    token = sign(secret, path=ACTIVATION.path, key=KEY)
    assert token.startswith("-")
    assert here("tokens", "verify", *OF_ACTIVATION, token, env=NO_DATABASE).code == 0
    token = sign(b"\xfb\xef" + bytes(30), path=RECOVERY.path, key=KEY, code="01234")
    assert token.startswith("--")
    assert here("tokens", "verify", *OF_RECOVERY, "--code", "01234", token, env=NO_DATABASE).code == 0


@pytest.mark.slow
def test_a_second_line_is_asked_for_only_where_one_is_needed(here: Here) -> None:
    """What follows a link without a code is none, and whoever wrote it may write no more, and wait for the answer."""
    ended = here("tokens", "verify", *OF_ACTIVATION, env=NO_DATABASE, stdin=f"{ACTIVATE}\nor so\n".encode())
    assert (ended.code, ended.out, ended.err) == (0, "signature valid for /activate\n", "")
    source, writes = os.pipe()
    with open(writes, "wb", buffering=0) as writer, open(source, "rb") as reader:
        writer.write(f"{ACTIVATE}\n".encode())
        process = start("tokens", "verify", *OF_ACTIVATION, env=NO_DATABASE, stdin=reader)
        with killed_after(process):
            assert end(process) == Ended(0, "signature valid for /activate\n", "")


@pytest.mark.parametrize(
    "token",
    ["", "x", ACTIVATE[:-1], ACTIVATE + "A", ACTIVATE + "==", ACTIVATE[:-2] + other(ACTIVATE[-2]) + "w"],
)
def test_whatever_is_wrong_is_told_alike(here: Here, token: str) -> None:
    ended = here("tokens", "verify", *OF_ACTIVATION, token, env=NO_DATABASE)
    assert (ended.code, ended.out, ended.err) == (1, "", INVALID)
    ended = here("tokens", "verify", *OF_ACTIVATION, env=NO_DATABASE, stdin=f"{token}\n".encode())
    assert (ended.code, ended.out, ended.err) == (1, "", INVALID)


def test_bytes_that_are_no_text_are_no_token(here: Here) -> None:
    ended = here("tokens", "verify", *OF_ACTIVATION, env=NO_DATABASE, stdin=b"\xff\xfe\0\n")
    assert (ended.code, ended.err) == (1, INVALID)


def test_without_a_path_the_database_says_which_there_are(here: Here, url: str) -> None:
    env = {"MAILROOM_DATABASE_URL": url, **NO_DATABASE}
    assert here("tokens", "verify", ACTIVATE, env=env).out.startswith("signature valid for activation\n")
    said = here("tokens", "verify", RECOVER, "--code", "01234", env=env).out
    assert said.startswith("signature valid for password_recovery\n")
    assert here("tokens", "verify", RECOVER, env=env).err == INVALID
    here("tokens", "verify", ACTIVATE, env=NO_DATABASE).assert_one_line(2, "MAILROOM_DATABASE_URL", "--path")


def test_a_database_tells_what_became_of_the_token(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url, **NO_DATABASE}

    def said(token: str, *options: str) -> str:
        ended = here("tokens", "verify", token, *options, env=env)
        assert (ended.code, ended.err) == (0, "")
        return ended.out.split("\n")[1]

    assert said(ACTIVATE) == "the database has no such token"
    with engine.connect() as connection:
        [account] = add_accounts(connection, 1)
        [first] = rows(connection, "SELECT id, secret FROM tokens")
    activation = sign(first.secret, path=ACTIVATION.path, key=KEY)
    whose = f"token {first.id} of account {account}"
    assert said(activation).startswith(f"{whose}: good until 2")
    with engine.begin() as connection:
        consume(connection, activation, action=ACTIVATION, key=KEY)
        recovery = ask_recovery(connection, account)
    assert said(activation).startswith(f"{whose}: consumed at 2")
    with engine.connect() as connection:
        connection.execute(text("UPDATE tokens SET expires_at = now() - interval '1 second' WHERE consumed_at IS NULL"))
    signed, code, rest = here("tokens", "sign", str(recovery), env=env).out.split("\n")
    assert rest == ""
    assert said(signed, "--code", code).startswith(f"token {recovery} of account {account}: expired 2")


def test_a_link_that_a_newer_one_has_ended_is_not_said_to_be_good(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url, **NO_DATABASE}
    with engine.begin() as connection:
        [account] = add_accounts(connection, 1, status="active")
        older, newer = ask_recovery(connection, account), ask_recovery(connection, account)
    signed, code, _ = here("tokens", "sign", str(older), env=env).out.split("\n")
    said = here("tokens", "verify", signed, "--code", code, env=env).out.split("\n")[1]
    assert said.startswith(f"token {older} of account {account}: good until 2")
    assert "while its account has the address that it had when this was made, and the status that" in said
    with engine.begin() as connection:
        connection.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = :newer"), {"newer": newer})
    said = here("tokens", "verify", signed, "--code", code, env=env).out.split("\n")[1]
    assert said == f"token {older} of account {account}: good no more: a newer one of its action was used"


def test_a_database_that_is_away_leaves_the_signature(here: Here) -> None:
    away = {"MAILROOM_DATABASE_URL": f"postgresql://127.0.0.1:{closed_port()}/app"}
    ended = here("tokens", "verify", *OF_ACTIVATION, ACTIVATE, env=NO_DATABASE | away)
    assert (ended.code, ended.out) == (1, "signature valid for /activate\n")
    assert ended.err.startswith("mailroom: the database cannot be used")


def test_sign_prints_what_the_mail_has(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url, **NO_DATABASE}
    with engine.connect() as connection:
        add_accounts(connection, 1)
        [token] = rows(connection, "SELECT id, secret FROM tokens")
    secret = bytes(token.secret)
    expected = base64.urlsafe_b64encode(secret + hmac.digest(KEY, b"/activate" + secret, "sha256")).decode().rstrip("=")
    ended = here("tokens", "sign", str(token.id), env=env)
    assert (ended.code, ended.out, ended.err) == (0, f"{expected}\n", "")
    here("tokens", "sign", str(token.id + 1), env=env).assert_one_line(1, f"there is no token {token.id + 1}")
