"""`suppressions`: who is not mailed, why, and letting them be mailed again, here and at SES."""

import json
import logging
import resource
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text

from mailroom.event import EventKind
from mailroom.ops import suppressions
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.suppression import Suppressed
from tests.cli.command import aws, end, killed_after, sending, start
from tests.cli.conftest import Here
from tests.telling import HARD, ask, mail, moment, reasons, sign_up, tell
from tests.world import KEY_HEX, ask_recovery, rows

ADA = "ada@example.com"


@pytest.fixture
def env(url: str, ses: Simulator) -> dict[str, str]:
    return {"MAILROOM_DATABASE_URL": url, **aws(ses)}


@pytest.fixture
def bounced(engine: Engine) -> int:
    """An account whose mail bounced."""
    with engine.connect() as connection:
        account = sign_up(connection, ADA)
        out = mail(connection, ask(connection, account), "m1")
        tell(connection, out, EventKind.BOUNCE, moment(1), **HARD)
    return account


def known(engine: Engine, address: str) -> str:
    with engine.connect() as connection:
        return suppressions.find_address(connection, address).hash


def test_who_is_not_mailed_is_listed_without_the_address(
    here: Here, env: dict[str, str], engine: Engine, bounced: int
) -> None:
    assert here("suppressions", "list", "--reason", "complaint", env=env).out == "no suppressed addresses\n"
    table = here("suppressions", "list", env=env).out
    assert f"{known(engine, ADA)} │ bounce │ Permanent │ General" in table
    assert "@" not in table
    [row] = json.loads(here("suppressions", "list", "--json", env=env).out)
    assert (row["hash"], row["reason"], row["since"]) == (known(engine, ADA), "bounce", row["bounced_at"])
    after = here("suppressions", "list", "--after", row["hash"], env=env)
    assert after.out == "no suppressed addresses\n"


def test_show_tells_what_is_so_here_and_at_ses(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, bounced: int
) -> None:
    ses.suppression.put(Suppressed(ADA, "BOUNCE", updated_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    out = here("suppressions", "show", "ADA@example.com", env=env).out
    name = known(engine, ADA)
    assert out.startswith(f"{name}: not mailed since 20")
    assert "bounce Permanent General\n" in out
    assert f"{name}: SES has it on its list since 2026-01-02 03:04:05Z: BOUNCE\n" in out

    told = here("suppressions", "show", ADA, "jo@example.com", "--json", env=env)
    found, other = json.loads(told.out)
    assert (found["reason"], found["ses"]["listed"], found["ses"]["reason"]) == ("bounce", True, "BOUNCE")
    assert (other["reason"], other["ses"]["listed"]) == (None, False)


def test_what_was_released_goes_at_ses_too(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, bounced: int
) -> None:
    ses.suppression.put(Suppressed(ADA, "BOUNCE", updated_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    ended = here("suppressions", "release", ADA, env=env)
    assert (ended.code, ended.err) == (0, "")
    said, of_the_others = ended.out.splitlines()
    assert said == f"{known(engine, ADA)}: released (bounce), and taken off SES's list"
    assert "up to 14 days" in of_the_others
    assert ses.suppression.all() == []
    with engine.connect() as connection:
        assert reasons(connection) == {ADA: None}
    assert "mailed again since 20" in here("suppressions", "show", ADA, env=env).out

    again = here("suppressions", "release", ADA, "--json", env=env)
    assert json.loads(again.out) == [{"hash": known(engine, ADA), "was": None, "ses": "not listed"}]


def test_who_may_not_release_at_ses_is_told_and_it_is_released_here(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, bounced: int
) -> None:
    ses.faults.add(Fault(error="AccessDeniedException", times=None))
    ended = here("suppressions", "release", ADA, env=env)
    assert ended.code == 0
    assert "released (bounce); warning: these credentials may not" in ended.out
    assert "ses:DeleteSuppressedDestination" in ended.out
    assert "ses:GetSuppressedDestination" in here("suppressions", "show", ADA, env=env).out
    with engine.connect() as connection:
        assert reasons(connection) == {ADA: None}


def test_where_ses_does_not_do_it_nothing_is_released(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, bounced: int
) -> None:
    """The next mail would only come back from SES's list."""
    ses.faults.add(Fault(error="BadRequestException", times=None))
    here("suppressions", "release", ADA, env=env).assert_one_line(1, "BadRequestException", "not released")
    here("suppressions", "show", ADA, env=env).assert_one_line(1, "BadRequestException", "--here")
    with engine.connect() as connection:
        assert reasons(connection) == {ADA: "bounce"}
    assert here("suppressions", "release", ADA, "--here", env=env).code == 0
    with engine.connect() as connection:
        assert reasons(connection) == {ADA: None}


def test_what_was_released_before_ses_did_no_more_is_told(
    here: Here, env: dict[str, str], ses: Simulator, engine: Engine, bounced: int
) -> None:
    ses.faults.add(Fault(latency_ms=1), Fault(error="BadRequestException", times=None))
    ended = here("suppressions", "release", ADA, "jo@example.com", "--json", env=env)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert json.loads(ended.out) == [{"hash": known(engine, ADA), "was": "bounce", "ses": "not listed"}]


def test_here_asks_nobody_else(here: Here, url: str, engine: Engine, bounced: int) -> None:
    env = {"MAILROOM_DATABASE_URL": url}  # no region, no credentials
    assert here("suppressions", "show", ADA, "--here", env=env).out.count("\n") == 1
    assert here("suppressions", "release", ADA, "--here", env=env).out == f"{known(engine, ADA)}: released (bounce)\n"


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_what_was_suppressed_before_the_database_did_no_more_is_told(
    here: Here, env: dict[str, str], engine: Engine, option: tuple[str, ...]
) -> None:
    with engine.connect() as connection:
        connection.execute(
            text("ALTER TABLE suppressions ADD CHECK (address_hash <> token_address_hash('c@example.com'))")
        )
    ended = here("suppressions", "add", "a@example.com", "b@example.com", "c@example.com", *option, env=env)
    assert ended.code == 1
    told = [row["added"] for row in json.loads(ended.out)] if option else ended.out.splitlines()
    assert len(told) == 2


def test_addresses_come_from_stdin_and_are_kept_and_logged_nowhere(
    here: Here, env: dict[str, str], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ended = here("suppressions", "add", "-", env=env, stdin="ada@example.com\n\n jö@bücher.example \n".encode())
    assert (ended.code, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()) == sorted(
        f"{known(engine, address)}: suppressed" for address in (ADA, "jö@xn--bcher-kva.example")
    )
    again = here("suppressions", "add", ADA, env=env).out
    assert again == f"{known(engine, ADA)}: was suppressed by hand already\n"
    here("suppressions", "release", ADA, env=env)
    with engine.connect() as connection:
        kept = str(rows(connection, "SELECT CAST(suppressions AS text) FROM suppressions"))
    for words in (kept, caplog.text, ended.out):
        assert "example" not in words


@pytest.mark.parametrize(
    "wrong",
    [
        *("ada", "@example.com", "ada@", "ada love@example.com", "ada\x1b@example.com"),
        # One with something around it, and several: their hash would fit nobody.
        *("<jo@example.com>", "mailto:jo@example.com", '"jo@example.com"', "'jo@example.com'", "jo@example.com;"),
        *("jo@example.com,mo@example.com", "jo@example.com,BOUNCE,2026-03-01", "jo@example.com:", "jo@example.com|"),
    ],
)
def test_what_is_no_address_is_told_by_its_place(here: Here, env: dict[str, str], wrong: str) -> None:
    for command in ("add", "release", "show"):
        ended = here("suppressions", command, ADA, wrong, env=env)
        ended.assert_one_line(2, "number 2 is not an address")
        assert wrong not in ended.err
    assert here("suppressions", "list", env=env).out == "no suppressed addresses\n"


@pytest.mark.parametrize(
    "odd", ["o'neil+x=1/2@example.com", '"jo@home"@example.com', "jo@[192.0.2.1]", "jo@bücher。de"]
)
def test_an_address_that_looks_odd_is_one(here: Here, env: dict[str, str], engine: Engine, odd: str) -> None:
    assert here("suppressions", "add", odd, env=env).out == f"{known(engine, odd)}: suppressed\n"


@pytest.mark.parametrize(
    "given",
    ["jürgen@example.com\n".encode("latin-1"), b"\0" * 100_000 + b"@example.com", b"a" * 100_000 + b"@example.com"],
)
def test_what_is_no_address_on_stdin_is_told_by_its_place(here: Here, env: dict[str, str], given: bytes) -> None:
    """A file in another encoding: what it means is another address, and its hash would fit nobody."""
    ended = here("suppressions", "add", "-", env=env, stdin=b"ada@example.com\n\n" + given)
    ended.assert_one_line(2, "number 2 is not an address")
    assert here("suppressions", "list", env=env).out == "no suppressed addresses\n"


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_an_address(
    here: Here, env: dict[str, str], engine: Engine
) -> None:
    assert here("suppressions", "add", "-", env=env, stdin="\ufeffada@example.com\r\n".encode()).code == 0
    assert known(engine, ADA) in here("suppressions", "list", env=env).out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"), [(("suppressions", "add", "-"), 2), (("tokens", "verify", "--path", "/activate"), 1)]
)
def test_an_input_without_end_is_not_read_to_its_end(env: dict[str, str], command: tuple[str, ...], code: int) -> None:
    with open("/dev/zero", "rb") as endless:
        given = env | {"MAILROOM_SECRET_KEY": KEY_HEX}
        process = start(*command, env=given, stdin=endless, preexec_fn=_with_little_memory)
        with killed_after(process):
            end(process).assert_one_line(code)


def _with_little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))


def test_what_makes_no_sense_is_refused(here: Here, env: dict[str, str]) -> None:
    here("suppressions", "list", "--reason", "spite", env=env).assert_one_line(2, "'spite' is not a reason")
    here("suppressions", "list", "--after", "xyz", env=env).assert_one_line(2, "--after: give the 16 letters")


@pytest.mark.slow
def test_a_mail_that_bounces_is_not_sent_again_until_its_address_is_released(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    """Sign-up, bounce, list, a recovery that is not sent, release, and a recovery that is."""
    ses.configuration_sets.create("told", events=True)
    queue = {"AWS_ENDPOINT_URL_SQS": ses.url, "MAILROOM_EVENTS_QUEUE_URL": ses.events_queue_url}
    env = sending(url, ses) | queue | {"MAILROOM_SES_CONFIG_SET": "told", "COLUMNS": "200"}
    bad = "bounce@simulator.example"  # such an address bounces in the simulator, and then is on its list
    with engine.connect() as connection:
        account = sign_up(connection, bad, status="active")
        first = ask_recovery(connection, account)
        assert here("sweep", env=env).code == 0
        assert here("events", "--max-seconds", "10", env=env).code == 0
        assert "│ bounce │ Permanent │ General │" in here("suppressions", "list", env=env).out
        life = here("jobs", "show", str(first), env=env).out
        assert [words in life for words in ("finished", "send", "bounce", "Permanent General 5.1.1")] == [True] * 4

        second = ask_recovery(connection, account)
        assert here("sweep", env=env).code == 0
        assert ses.ledger.counts().mails == 1
        [ended] = json.loads(here("jobs", "list", "--outcome", "suppressed", "--json", env=env).out)
        assert (ended["token"], ended["code"]) == (second, "SuppressedBounce")

        assert "and taken off SES's list" in here("suppressions", "release", bad, env=env).out
        assert here("jobs", "retry", "--outcome", "suppressed", env=env).out == "put back 1, made due 0\n"
        assert here("sweep", env=env).code == 0
        assert ses.ledger.counts().mails == 2


@pytest.mark.slow
def test_an_address_that_is_released_here_alone_comes_back_from_the_list_of_ses(
    here: Here, ses: Simulator, url: str, engine: Engine
) -> None:
    ses.configuration_sets.create("told", events=True)
    queue = {"AWS_ENDPOINT_URL_SQS": ses.url, "MAILROOM_EVENTS_QUEUE_URL": ses.events_queue_url}
    env = sending(url, ses) | queue | {"MAILROOM_SES_CONFIG_SET": "told"}
    ses.suppression.put(Suppressed(ADA, "BOUNCE"))
    with engine.connect() as connection:
        account = sign_up(connection, ADA, status="active")
        assert here("suppressions", "release", ADA, "--here", env=env).code == 0
        ask_recovery(connection, account)
        assert here("sweep", env=env).code == 0
        assert here("events", "--max-seconds", "10", env=env).code == 0
        assert reasons(connection) == {ADA: "bounce"}
    [row] = json.loads(here("suppressions", "list", "--json", env=env).out)
    assert row["subtype"] == "OnAccountSuppressionList"
    assert json.loads(here("status", "--json", env=env).out)["feedback"]["reputation"]["newest"]["bounces"] == 0
