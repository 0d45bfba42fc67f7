"""`templates`: from a folder to SES and into use, and one line for whatever is in the way."""

import json
import os
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mailroom import ses as amazon
from mailroom.ses.templates import Templates
from mailroom.simulator import Fault, Simulator
from mailroom.templates.samples import SAMPLES
from tests.cli.command import MAILROOM, aws, run, sending
from tests.cli.conftest import Here
from tests.roles import a_role
from tests.servers import Server
from tests.templates.folders import GERMAN, GOOD, activation, languages, write

CODED = GOOD | {"text.txt": "{{secret}} {{code}}", "html.html": "{{secret}} {{code}}"}


@pytest.fixture
def env(ses: Simulator, url: str) -> dict[str, str]:
    return sending(url, ses)


def used(engine: Engine, action: str = "activation") -> str:
    with engine.connect() as connection:
        found: str = connection.scalar(text("SELECT template FROM actions WHERE name = :name"), {"name": action})
    return found


def names(ses: Simulator) -> list[str]:
    return [str(template.name) for template in ses.templates.all()]


@pytest.mark.slow
def test_from_nothing_to_use_and_back(here: Here, env: dict[str, str], ses: Simulator, engine: Engine) -> None:
    assert here("templates", "init", "--name", "Shop", "--site", "https://shop.example", env=env).code == 0
    first = here("templates", "diff", "--check", env=env)
    assert (first.code, first.out.count("which SES has not; ")) == (1, 2)
    assert "+Please confirm your email address" not in first.out  # it is one of two languages
    assert "-Activate your account" in first.out
    pushed = here("templates", "push", "--use", env=env)
    assert pushed.code == 0, pushed
    assert pushed.out.count("created, and rendered by SES in de en") == 2
    assert "activation: uses activation-" in pushed.out
    way_back = pushed.out.splitlines()[-2].partition("the way back: mailroom ")[2]
    assert way_back == "templates use activation activationv1 --unpushed"
    assert here("templates", "diff", "--check", env=env).code == 0
    assert used(engine).startswith("activation-")
    back = here(*way_back.split(), env=env)
    assert (back.code, used(engine)) == (0, "activationv1")
    forth = back.out.strip().partition("the way back: mailroom ")[2]
    assert here(*forth.split(), env=env).code == 0
    assert used(engine).startswith("activation-")
    listed = json.loads(here("templates", "list", "--json", env=env).out)
    assert [(each["uses"], each["languages"]) for each in listed if each["action"] == "activation"] == [
        (["activation"], ["de", "en"])
    ]


@pytest.mark.slow
def test_each_step_says_what_the_next_one_is(here: Here, env: dict[str, str], ses: Simulator, engine: Engine) -> None:
    wrote = here("templates", "init", "of mine", env=env).out
    [step] = re.findall(r"then `mailroom (.+)`", wrote)
    assert shlex.split(step) == ["templates", "push", "of mine", "--use"]

    pushed = here("templates", "push", "of mine", env=env).out
    assert used(engine) == "activationv1"
    [step] = re.findall(r"activation: still uses activationv1; to change that: mailroom (.+)", pushed)
    assert here(*shlex.split(step), env=env).code == 0
    assert used(engine).startswith("activation-")
    again = here("templates", "push", "of mine", env=env).out
    assert ("activation: still" in again, "password_recovery: still" in again) == (False, True)

    ses.templates.delete(used(engine))
    said = f"failed  template {used(engine)}: does not exist -> `mailroom templates push --use`"
    assert said in here("doctor", env=env).out
    assert here("templates", "push", "of mine", "--use", env=env).code == 0
    assert said not in here("doctor", env=env).out


def test_what_was_pushed_is_not_made_again(here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path) -> None:
    activation(tmp_path / "t")
    for words in ("created", "was there"):
        ended = here("templates", "push", "t", env=env)
        assert (ended.code, words in ended.out) == (0, True)
    creations = [request for request in ses.ledger.requests if request.operation == "CreateEmailTemplate"]
    assert len(creations) == 1


def test_what_changes_gets_another_name(here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path) -> None:
    for subject in ("Welcome", "Welcome!"):
        activation(tmp_path / "t", subject=subject)
        assert here("templates", "push", "t", env=env).code == 0
    assert len([name for name in names(ses) if name.startswith("activation-")]) == 2


def test_nothing_is_pushed_that_has_problems(here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path) -> None:
    texts = GOOD | {"text.txt": "{{secret}} {{device}}", "html.html": "{{login_text}}"}
    write(tmp_path / "t", languages(en=GOOD, de=texts))
    before = names(ses)
    ended = here("templates", "push", "t", "--use", env=env)
    assert (ended.code, ended.out.count("\n"), ended.err.count("\n")) == (1, 3, 1)
    assert "activation/de/text.txt: uses device" in ended.out
    assert "nothing was done: the folder has 3 problems" in ended.err
    assert names(ses) == before


def test_an_action_that_the_database_has_not(here: Here, env: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "t", languages("invitation", en=GOOD))
    here("templates", "push", "t", env=env).assert_one_line(1, "there is no action invitation")
    here("templates", "push", "t", "--action", "activation", env=env).assert_one_line(1, "has no action activation")


@pytest.mark.slow
def test_only_one_action(here: Here, env: dict[str, str], ses: Simulator, engine: Engine) -> None:
    here("templates", "init", env=env)
    assert here("templates", "push", "--action", "password_recovery", "--use", env=env).code == 0
    assert (used(engine), used(engine, "password_recovery")[:18]) == ("activationv1", "password_recovery-")


@pytest.mark.slow
def test_the_way_back_to_what_was_pushed_for_another_action(
    here: Here, env: dict[str, str], engine: Engine, tmp_path: Path
) -> None:
    write(tmp_path / "t", {**languages(en=GOOD), **languages("password_recovery", en=CODED)})
    assert here("templates", "push", "t", "--use", env=env).code == 0
    mine, other = used(engine), used(engine, "password_recovery")
    assert here("templates", "use", "activation", other, "--unpushed", env=env).code == 0
    way_back = here("templates", "use", "activation", mine, env=env).out.partition("the way back: mailroom ")[2]
    assert here(*way_back.split(), env=env).code == 0
    assert used(engine) == other


# SES in the way


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "error", "words"),
    [
        ("GetEmailTemplate", "AccessDeniedException", "these credentials may not do it"),
        ("CreateEmailTemplate", "AccessDeniedException", "these credentials may not do it"),
        ("CreateEmailTemplate", "LimitExceededException", "LimitExceededException: A fault was asked for."),
        ("TestRenderEmailTemplate", "BadRequestException", "BadRequestException: A fault was asked for."),
    ],
)
def test_what_ses_refuses_is_one_line_and_nothing_counts_as_pushed(
    here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path, operation: str, error: str, words: str
) -> None:
    activation(tmp_path / "t")
    status = 403 if error.startswith("Access") else None
    ses.faults.add(Fault(operation=operation, error=error, status=status, times=None))
    ended = here("templates", "push", "t", "--use", env=env)
    ended.assert_one_line(1, f"SES refuses {operation} for activation-", words)
    listed = json.loads(here("templates", "list", "--json", env=env).out)
    assert [each["name"] for each in listed] == ["activationv1", "passwordrecoveryv1"]
    ses.faults.clear()
    assert here("templates", "push", "t", "--use", env=env).code == 0


def test_what_ses_renders_otherwise_is_not_used(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, tmp_path: Path
) -> None:
    """If its engine took "" for true, everybody would be written to in one language, and nobody would see it here."""
    activation(tmp_path / "t")
    body = json.dumps({"RenderedTemplate": "Subject: Willkommen\n\nHallo\n"})
    ses.faults.add(Fault(operation="TestRenderEmailTemplate", body=body))
    ended = here("templates", "push", "t", "--use", env=env)
    ended.assert_one_line(1, "SES makes another subject of activation-", " in en than is expected")
    assert used(engine) == "activationv1"


def test_what_somebody_else_made_under_its_name_is_not_used(
    here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path
) -> None:
    activation(tmp_path / "t")
    assert here("templates", "push", "t", env=env).code == 0
    [name] = [name for name in names(ses) if name.startswith("activation-")]
    ses.templates.update(name, {"Subject": "Mine", "Text": "Mine", "Html": "Mine"})
    here("templates", "push", "t", env=env).assert_one_line(1, f"another template under the name {name}")


def test_diff_sees_what_somebody_changed_at_ses(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, tmp_path: Path
) -> None:
    activation(tmp_path / "t")
    assert here("templates", "push", "t", "--use", env=env).code == 0
    assert here("templates", "diff", "t", "--check", env=env).code == 0
    ses.templates.update(used(engine), {"Subject": "Mine", "Text": "Mine", "Html": "Mine"})
    ended = here("templates", "diff", "t", "--check", env=env)
    assert (ended.code, "somebody changed it" in ended.out, "-Mine\n+Welcome" in ended.out) == (1, True, True)


def test_no_credentials(here: Here, env: dict[str, str], tmp_path: Path) -> None:
    activation(tmp_path / "t")
    del env["AWS_ACCESS_KEY_ID"]
    here("templates", "push", "t", env=env).assert_one_line(2, "no AWS credentials were found")


def test_ses_does_not_answer(here: Here, env: dict[str, str], tmp_path: Path) -> None:
    activation(tmp_path / "t")
    env["AWS_ENDPOINT_URL_SESV2"] = "http://127.0.0.1:9"
    here("templates", "push", "t", env=env).assert_one_line(
        1, "no answer to GetEmailTemplate", "EndpointConnectionError"
    )


# Use


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["activation", "activation-00000000"], "no template activation-00000000 was pushed for activation"),
        (["activation", "not/a/name", "--unpushed"], "violates check constraint"),
        (["nothing", "activationv1", "--unpushed"], "there is no action nothing"),
    ],
)
def test_what_cannot_be_used(here: Here, env: dict[str, str], engine: Engine, arguments: list[str], words: str) -> None:
    here("templates", "use", *arguments, env=env).assert_one_line(1, words)
    assert used(engine) == "activationv1"


def test_a_worker_s_role_is_all_it_takes(
    here: Here, env: dict[str, str], server: Server, url: str, engine: Engine, tmp_path: Path
) -> None:
    activation(tmp_path / "t")
    with a_role(server) as (role, log_in):
        granted = here("grants", "--worker", role, "--apply", env=env)
        assert granted.code == 0, granted
        mine = env | {"MAILROOM_DATABASE_URL": log_in(url)}
        ended = here("templates", "push", "t", "--use", env=mine)
        assert ended.code == 0, ended
        assert here("templates", "list", env=mine).code == 0
    assert used(engine).startswith("activation-")


# Previews


def test_previews_are_files_and_need_nothing_else(here: Here, tmp_path: Path) -> None:
    assert here("templates", "init", env={}).code == 0
    ended = here("templates", "preview", "--to", "out", env={})
    assert (ended.code, ended.err) == (0, "")
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert len(files) == 2 * 2 * len(SAMPLES) * 2 + 1
    recovery = (tmp_path / "out/password_recovery.de.html.html").read_text("utf-8")
    assert '<html lang="de" dir="ltr"' in recovery
    assert "&lt;b&gt;O&#x27;Neil &amp; &quot;Sons&quot;&lt;/b&gt;" in recovery
    assert "<b>O'Neil" in (tmp_path / "out/password_recovery.de.html.txt").read_text("utf-8")
    assert "شهرزاد" in (tmp_path / "out/activation.en.right-to-left.html").read_text("utf-8")
    assert SAMPLES["long"] in (tmp_path / "out/activation.en.long.txt").read_text("utf-8")


def test_previews_take_the_place_of_what_has_their_names(here: Here, tmp_path: Path) -> None:
    """A pipe would wait for a reader, and a link would lead to a file of somebody else."""
    assert here("templates", "init", env={}).code == 0
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "victim").write_text("keep")
    (out / "index.html").symlink_to(tmp_path / "victim")
    (out / "activation.en.ordinary.html").symlink_to(tmp_path / "nowhere" / "x")
    os.mkfifo(out / "activation.en.ordinary.txt")
    ended = run([*MAILROOM, "templates", "preview", str(tmp_path / "templates"), "--to", str(out)], env={})
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "victim").read_text() == "keep"
    assert "<title>Previews</title>" in (out / "index.html").read_text()
    assert "Ada Lovelace" in (out / "activation.en.ordinary.txt").read_text()


@pytest.mark.parametrize("where", ["file", "file/x", "link"])
def test_where_previews_cannot_be_written_the_path_is_named(here: Here, tmp_path: Path, where: str) -> None:
    assert here("templates", "init", env={}).code == 0
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("link")
    here("templates", "preview", "--to", where, env={}).assert_one_line(1, f"{where}: ")


@pytest.mark.slow
def test_previews_are_mails(here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path) -> None:
    write(tmp_path / "t", languages(en=GOOD, de=GERMAN))
    unpushed = here("templates", "preview", "t", "--send", "jo@example.com", env=env)
    unpushed.assert_one_line(1, "was not sent: ", "is it pushed?")
    assert here("templates", "push", "t", env=env).code == 0
    ended = here("templates", "preview", "t", "--send", "jo@example.com", env=aws(ses))
    assert (ended.code, ended.out) == (0, f"sent {2 * len(SAMPLES)} mails\n")
    assert {mail.subject for mail in ses.ledger.mails} == {"Welcome", "Willkommen"}
    assert ses.ledger.counts().rendering_failures == 0


@pytest.mark.slow
def test_previews_leave_at_the_rate_of_ses(here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path) -> None:
    write(tmp_path / "t", languages(en=GOOD, de=GERMAN))
    assert here("templates", "push", "t", env=env).code == 0
    ses.account.max_send_rate = 2
    ended = here("templates", "preview", "t", "--send", "jo@example.com", env=aws(ses))
    assert (ended.code, ended.out) == (0, f"sent {2 * len(SAMPLES)} mails\n")
    assert {request.error for request in ses.ledger.requests if request.operation == "SendEmail"} == {None}


@pytest.mark.slow
def test_where_others_send_too_previews_wait_and_then_say_so(
    here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path
) -> None:
    activation(tmp_path / "t")
    assert here("templates", "push", "t", env=env).code == 0
    throttled = Fault(operation="SendEmail", error="TooManyRequestsException", times=2)
    ses.faults.add(throttled)
    assert here("templates", "preview", "t", "--send", "jo@example.com", env=env).code == 0
    ses.faults.add(replace(throttled, times=None))
    ended = here("templates", "preview", "t", "--send", "jo@example.com", env=env)
    ended.assert_one_line(1, "was not sent: TooManyRequestsException; SES takes no more now. Try again later")


@pytest.mark.parametrize("where", [[], ["--to", "out", "--send", "jo@example.com"]])
def test_previews_go_to_one_place(here: Here, tmp_path: Path, where: list[str]) -> None:
    activation(tmp_path / "t")
    here("templates", "preview", "t", *where, env={}).assert_one_line(2, "--to FOLDER, or --send ADDRESS")


def test_a_preview_of_what_cannot_be_rendered(here: Here, tmp_path: Path) -> None:
    activation(tmp_path / "t", text="{{secret}} {{nothing}}")
    here("templates", "preview", "t", "--to", "out", env={}).assert_one_line(1, "activation/en: nothing: it is missing")


# Init


@pytest.mark.parametrize(
    ("option", "value"),
    [("--site", "shop.example"), ("--site", 'https://x/"'), ("--name", ""), ("--name", "{{x}}"), ("--name", "a\nb")],
)
def test_a_name_and_a_site_have_to_be_such(here: Here, tmp_path: Path, option: str, value: str) -> None:
    here("templates", "init", option, value, env={}).assert_one_line(2, option)
    assert not (tmp_path / "templates").exists()


def test_nothing_is_overwritten(here: Here, tmp_path: Path) -> None:
    activation(tmp_path / "templates")
    here("templates", "init", env={}).assert_one_line(1, "is there already")
    here("templates", "push", "nowhere", env={}).assert_one_line(2, "MAILROOM_DATABASE_URL is not set")


# Doctor


@pytest.mark.slow
def test_doctor_knows_the_languages_of_what_is_used(here: Here, env: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "t", languages(en=GOOD, de=GERMAN))
    assert here("templates", "push", "t", "--use", env=env).code == 0
    lines = here("doctor", env=env).out.splitlines()
    assert [line.split(":")[0].split()[0] for line in lines if "template activation-" in line] == ["ok"]


@pytest.mark.slow
def test_the_pace_is_what_ses_takes(ses: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second: none sooner than that after the one before was asked for, whenever it arrived."""
    for name, value in aws(ses).items():
        monkeypatch.setenv(name, value)
    at_ses = Templates(amazon.connect_to_ask(region="us-east-1"))
    at_ses.push("x", {"subject": "a", "text": "b", "html": "c"})
    began = time.monotonic()
    at_ses.render("x", "{}")
    at_ses.render("x", "{}")
    assert time.monotonic() - began >= 1
    assert [each.operation for each in ses.ledger.requests][-2:] == ["TestRenderEmailTemplate"] * 2


@pytest.mark.slow
def test_whoever_else_pushes_takes_a_turn_too(here: Here, env: dict[str, str], ses: Simulator, tmp_path: Path) -> None:
    activation(tmp_path / "t")
    throttled = {"error": "TooManyRequestsException", "message": "Rate exceeded", "times": 4}
    ses.faults.add(Fault(operation="CreateEmailTemplate", **throttled))  # type: ignore[arg-type]  # a dict of several types
    assert here("templates", "push", "t", env=env).code == 0
