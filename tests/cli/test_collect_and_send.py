"""`collect` and `send`: two processes with a pipe between them, and nothing lost on the way."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mailroom import templates
from mailroom.mail.pipe import MAX_LINE, parse
from mailroom.ops import templates as record
from mailroom.simulator import Fault, Simulator
from tests.cli.command import MAILROOM, PATIENCE_SECONDS, end, killed_after, sending, small_environment, start
from tests.cli.conftest import Here
from tests.kinds import ACTIVATION, sign
from tests.roles import a_role
from tests.running import eventually
from tests.servers import Server
from tests.templates.folders import GERMAN, GOOD, languages, write
from tests.world import KEY, add_accounts, ask_recovery, count, misplaced, rows

LOGINS = [
    "plain",
    "lovelace, ada",
    'the "first"',
    '"',
    " leading blank",
    "\N{GRINNING FACE} \N{COMBINING ACUTE ACCENT}",
    "<b>&amp;</b>",
    "\\n",
]
SECRET = sign(b"s" * 32, action=ACTIVATION, key=KEY)


def add_logins(engine: Engine, logins: list[str]) -> None:
    with engine.connect() as connection:
        for number, login in enumerate(logins):
            connection.execute(
                text("INSERT INTO accounts (email, login) VALUES (:email, :login)"),
                {"email": f"user{number}@example.com", "login": login},
            )


def jobs(engine: Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in rows(connection, "SELECT * FROM jobs ORDER BY token")]


@contextlib.contextmanager
def all_killed_after(leader: "subprocess.Popen[str]") -> Iterator[None]:
    """Make sure that a process and all of its session are gone, however the test went."""
    with leader:
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, signal.SIGKILL)


def line(login: str = "ada", *, address: str = "ada@example.com", action: int = 1) -> str:
    return f"{action},{address},{login},{SECRET},01234\n"


@pytest.mark.slow
def test_ctrl_c_loses_no_mail_that_is_in_the_pipe(ses: Simulator, url: str, engine: Engine, tmp_path: Path) -> None:
    add_logins(engine, LOGINS)
    with engine.connect() as connection:
        [active] = add_accounts(connection, 1, status="active", prefix="active")
        ask_recovery(connection, active)
    mails = len(LOGINS) + 1
    ses.faults.add(Fault(latency_ms=6_000))  # the first call is under way until all is in the pipe, and the signal sent
    mailroom = shlex.join(MAILROOM)
    script = f"trap : INT; set -o pipefail; {mailroom} collect --no-listen --batch-limit 2 | {mailroom} send"
    pipe = subprocess.Popen(
        ["bash", "-c", script],
        env=small_environment(sending(url, ses)),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with all_killed_after(pipe):
        with engine.connect() as looking:
            eventually(lambda: count(looking, "deliveries") == mails and ses.ledger.requests)
        assert ses.ledger.counts().mails < mails
        os.killpg(pipe.pid, signal.SIGINT)
        _, err = pipe.communicate(timeout=PATIENCE_SECONDS)
    assert pipe.returncode == 0, err
    assert "Traceback" not in err
    arrived = [mail.variables["login_text"] for mail in ses.ledger.mails]
    assert sorted(arrived) == sorted([*LOGINS, "active1"])
    with engine.connect() as connection:
        assert misplaced(connection) == []
        assert {row.outcome for row in rows(connection, "SELECT outcome FROM deliveries")} == {"sent"}
        sent = rows(connection, "SELECT secret, code, action FROM tokens")
    signed = {sign(row.secret, action=row.action, key=KEY, code=row.code) for row in sent}
    assert {mail.variables["secret"] for mail in ses.ledger.mails} == signed
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_a_closed_pipe_gives_the_batch_back(ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
    before = jobs(engine)
    with start("collect", "--no-listen", env=sending(url, ses)) as collect:
        assert collect.stdout is not None
        collect.stdout.close()
        collect.stdout = None
        ended = end(collect)

    assert ended.code == 1
    *log, last = ended.err.splitlines()
    assert last == "mailroom: the output is closed, and the batch returned: Broken pipe"
    others = [line for line in log if " INFO worker st" not in line]
    assert [" INFO batch id=" in line and " untried=3 " in line for line in others] == [True]
    assert jobs(engine) == before
    with engine.connect() as connection:
        assert (count(connection, "batches"), count(connection, "deliveries")) == (0, 0)


@pytest.mark.slow
def test_collect_prints_a_batch_as_a_line_and_stops_in_order(ses: Simulator, url: str, engine: Engine) -> None:
    add_logins(engine, LOGINS)
    env = sending(url, ses) | {"PYTHONIOENCODING": "ascii"}  # a locale without emoji
    with start("collect", "--no-listen", env=env, encoding="utf-8") as collect:
        assert collect.stdout is not None
        printed = collect.stdout.readline()
        collect.send_signal(signal.SIGTERM)
        ended = end(collect)

    assert (ended.code, ended.out) == (0, "")
    assert [(action, mail.login) for action, mail in parse(printed, {"1": ACTIVATION})] == [
        (ACTIVATION, each) for each in LOGINS
    ]
    assert printed.startswith("1,user0@example.com,plain,")
    assert "example.com" not in ended.err
    with engine.connect() as connection:
        assert misplaced(connection) == []
    with engine.connect() as connection:
        assert count(connection, "deliveries") == len(LOGINS)


def test_malformed_lines_are_named_and_skipped(
    here: Here, ses: Simulator, caplog: pytest.LogCaptureFixture, tmp_path: Path, url: str
) -> None:
    caplog.set_level("INFO")
    hostile = [
        line("first").encode(),
        b"\n",
        b"not,a,line\n",
        line("\udcff\udcfe").encode(errors="surrogateescape"),
        line("nul\0").encode(),
        line("next\x85line").encode(),
        line("lone\rreturn").encode(),
        line('"open').encode(),
        b"x" * (2 * MAX_LINE + 5) + b"\n",
        b"\xff\xfe\0\r\r\x85" * 9 + b"\n",
        line("second").replace("\n", "\r\n").encode(),
        (line("third").rstrip("\n") + "," + line("fourth", action=2)).encode(),
        line("cut").encode().rstrip(b"\n"),
    ]
    ended = here("send", env=sending(url, ses), stdin=b"".join(hostile))

    assert (ended.code, ended.out, ended.err) == (1, "", "")
    skipped = [message for message in caplog.messages if "skipped" in message]
    assert [int(message.split()[1]) for message in skipped] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 13]
    assert "longer than" in skipped[7]
    assert "cut off" in skipped[9]
    assert [mail.variables["login_text"] for mail in ses.ledger.mails] == ["first", "second", "third", "fourth"]
    assert "example.com" not in caplog.text
    assert not (tmp_path / "output").exists()


def test_a_recovery_keeps_its_code(here: Here, ses: Simulator, url: str) -> None:
    assert here("send", env=sending(url, ses), stdin=line(action=2).encode()).code == 0
    [mail] = ses.ledger.mails
    assert mail.template.name == "passwordrecoveryv1"
    assert mail.variables == {"login": "ada", "login_text": "ada", "secret": SECRET, "code": "01234"}


def test_more_mails_than_a_call_takes_are_several_calls(here: Here, ses: Simulator, url: str) -> None:
    lines = line(action=1).rstrip("\n")
    stdin = ",".join([lines] * 51) + "\n"
    assert here("send", env=sending(url, ses), stdin=stdin.encode()).code == 0
    assert [request.operation for request in ses.ledger.requests] == ["SendBulkEmail", "SendEmail"]
    assert ses.ledger.counts().mails == 51


def test_nothing_to_send_is_fine(here: Here, ses: Simulator, url: str) -> None:
    assert here("send", env=sending(url, ses)).code == 0


@pytest.mark.parametrize("path", [None, "elsewhere/answers"])
def test_what_ses_refuses_is_kept_and_ends_with_1(
    here: Here, ses: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str | None, url: str
) -> None:
    caplog.set_level("INFO")
    ses.faults.add(Fault(error="MessageRejected", message="no, ada@example.com"), Fault(entries={1: "FAILED"}))
    pair = (line().rstrip("\n") + "," + line("bob")).encode()
    settings = {} if path is None else {"MAILROOM_SES_OUTPUT_PATH": path}
    ended = here("send", env=sending(url, ses) | settings, stdin=line().encode() + pair + line().encode())

    assert ended.code == 1
    file = tmp_path / (path or "output") / "ses-errors.jsonl"
    whole, entries = (json.loads(each)["answer"] for each in file.read_text().splitlines())
    assert whole["Error"]["Code"] == "MessageRejected"
    assert [result["Status"] for result in entries["BulkEmailEntryResults"]] == ["SUCCESS", "FAILED"]
    assert file.stat().st_mode & 0o077 == 0
    assert "line 1 action=activation outcome=rejected code=MessageRejected" in caplog.messages
    assert "line 2 action=activation mails=2 sent=1" in caplog.messages
    assert "line 2 action=activation outcome=deferred code=FAILED" in caplog.messages
    assert "line 3 action=activation mails=1 sent=1" in caplog.messages
    assert "example.com" not in caplog.text


def test_a_recipient_that_a_policy_denies_stops_no_other_of_its_line(here: Here, ses: Simulator, url: str) -> None:
    ses.faults.add(Fault(error="AccessDeniedException", status=403, times=None, recipients="denied"))
    three = (line("ada"), line("eve", address="denied@example.com"), line("bob"))
    ended = here("send", env=sending(url, ses), stdin=",".join(each.rstrip("\n") for each in three).encode() + b"\n")
    assert ended.code == 1
    assert sorted(mail.variables["login_text"] for mail in ses.ledger.mails) == ["ada", "bob"]


def test_one_bad_mail_after_another_leaves_no_good_one_untried(here: Here, ses: Simulator, url: str) -> None:
    """A worker claims again what a search has left. Nobody does so for a line."""
    ses.faults.add(Fault(error="MessageRejected", times=None, recipients="bad"))
    mails = [line(address=f"bad{number}@example.com") for number in range(7)]
    mails += [line(f"good{number}", address=f"good{number}@example.com") for number in range(7)]
    ended = here("send", env=sending(url, ses), stdin=",".join(each.rstrip("\n") for each in mails).encode() + b"\n")
    assert ended.code == 1
    arrived = sorted(mail.variables["login_text"] for mail in ses.ledger.mails)
    assert arrived == [f"good{number}" for number in range(7)]


@pytest.mark.slow
def test_what_ses_throttles_is_sent_a_moment_later(
    here: Here, ses: Simulator, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else tries it again; and `collect` writes no faster than what reads its lines."""
    caplog.set_level("INFO")
    ses.faults.add(Fault(error="TooManyRequestsException"), Fault(entries={1: "ACCOUNT_THROTTLED"}))
    pair = (line().rstrip("\n") + "," + line("bob")).encode()
    assert here("send", env=sending(url, ses), stdin=line("eve").encode() + pair).code == 0
    assert sorted(mail.variables["login_text"] for mail in ses.ledger.mails) == ["ada", "bob", "eve"]
    assert "line 2 action=activation mails=2 sent=2" in caplog.messages
    ses.faults.add(Fault(error="TooManyRequestsException", message="Daily message quota exceeded.", times=None))
    assert here("send", env=sending(url, ses), stdin=line().encode()).code == 1


@pytest.mark.slow
def test_what_the_database_says_of_a_kind_of_mail_changes_while_send_runs(
    ses: Simulator, url: str, engine: Engine
) -> None:
    """As for a worker. What `collect` has written counts as sent: a number that is new must not be malformed."""
    ses.templates.create("newv1", {"Subject": "New", "Text": "{{secret}}", "Html": "{{secret}}"})
    with start("send", env=sending(url, ses), stdin=subprocess.PIPE) as sends, killed_after(sends):
        assert sends.stdin is not None

        def write(what: str) -> None:
            assert sends.stdin is not None
            sends.stdin.write(what)
            sends.stdin.flush()

        write(line("first"))
        eventually(lambda: ses.ledger.counts().mails == 1)
        with engine.connect() as connection:
            connection.execute(
                text("INSERT INTO actions (name, number, template, path) VALUES ('sign_in', 77, 'newv1', '/sign-in')")
            )
        write(line("second", action=77))
        eventually(lambda: ses.ledger.counts().mails == 2)
        with engine.connect() as connection:
            connection.execute(text("UPDATE actions SET template = 'newv1' WHERE name = 'activation'"))

        def is_used() -> bool:
            write(line("third"))
            return any((mail.template.name, mail.variables["login"]) == ("newv1", "third") for mail in ses.ledger.mails)

        eventually(is_used)
        ended = end(sends)
    assert ended.code == 0, ended
    assert " WARNING " not in ended.err


@pytest.mark.slow
def test_send_goes_on_with_what_it_knows_while_the_database_is_away(
    ses: Simulator, server: Server, engine: Engine, url: str
) -> None:
    with a_role(server) as (role, log_in):
        with engine.connect() as connection:
            for function in ("contract", "action_list", "action_senders", "template_list"):
                connection.execute(text(f'GRANT EXECUTE ON FUNCTION {function}() TO "{role}"'))
            connection.execute(text(f'GRANT USAGE ON SCHEMA mailroom TO "{role}"'))
        env = sending(url, ses) | {"MAILROOM_DATABASE_URL": log_in(url)}
        with start("send", env=env, stdin=subprocess.PIPE) as sends, killed_after(sends):
            assert sends.stdin is not None
            sends.stdin.write(line())
            sends.stdin.flush()
            eventually(lambda: ses.ledger.counts().mails == 1)
            with engine.connect() as connection:
                connection.execute(text(f'REVOKE EXECUTE ON FUNCTION action_list() FROM "{role}"'))
            sends.stdin.write(line("odd", action=99) + line("bob"))
            sends.stdin.flush()
            eventually(lambda: ses.ledger.counts().mails == 2)
            ended = end(sends)
    assert ended.code == 1, ended
    assert "line 2 skipped: an action is not one of 1, 2" in ended.err
    assert "kinds of mail cannot be read" in ended.err


def test_answers_that_cannot_be_kept_stop_nothing(
    here: Here, ses: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    (tmp_path / "output").write_text("a file where the folder should be")
    ses.faults.add(Fault(error="MessageRejected"))
    ended = here("send", env=sending(url, ses), stdin=(line() + line()).encode())
    assert (ended.code, ended.err) == (1, "")
    assert "line 1 action=activation outcome=rejected code=MessageRejected" in caplog.messages
    assert ses.ledger.counts().mails == 1


@pytest.mark.slow
def test_what_goes_through_a_line_is_in_the_default_language(
    here: Here, ses: Simulator, url: str, engine: Engine, tmp_path: Path
) -> None:
    """A line has no field for a language; the mail is sent all the same, and none fails to render."""
    content = templates.compose(
        templates.read(write(tmp_path, languages(en=GOOD, de=GERMAN))),
        "activation",
    )
    ses.templates.create(content.name, {part.capitalize(): text for part, text in content.parts.items()})
    with engine.connect() as connection:
        record.add(connection, content.name, action="activation", languages=content.languages, default_language="en")
        record.use(connection, "activation", content.name)
        add_accounts(connection, 2)
        connection.execute(text("UPDATE accounts SET language = 'de'"))
    with start("collect", "--no-listen", env=sending(url, ses)) as lines:
        assert lines.stdout is not None
        line = lines.stdout.readline()
        lines.send_signal(signal.SIGTERM)
        assert end(lines).code == 0
    assert here("send", env=sending(url, ses), stdin=line.encode()).code == 0
    assert [mail.subject for mail in ses.ledger.mails] == ["Welcome", "Welcome"]
    assert [mail.variables["lang_de"] for mail in ses.ledger.mails] == ["", ""]
    assert ses.ledger.counts().rendering_failures == 0
