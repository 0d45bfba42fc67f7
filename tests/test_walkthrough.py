"""What an operator goes through: templates, bounces, suppressions. Real processes, and a simulator of SES."""

from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from mailroom.simulator import Fault, Simulator
from mailroom.simulator.happenings import FATES
from mailroom.simulator.records import Mail
from tests.cli.command import MAILROOM, Ended, run, sending
from tests.running import Process, Processes, eventually
from tests.world import misplaced, rows

EACH_SERVER = False


@pytest.fixture
def heard(simulator: Simulator) -> dict[str, str]:
    """The settings of a worker that hears what becomes of its mails."""
    simulator.configuration_sets.delete("default")
    simulator.configuration_sets.create("default", events=True)
    return {"MAILROOM_EVENTS_QUEUE_URL": simulator.events_queue_url, "AWS_ENDPOINT_URL_SQS": simulator.url}


@pytest.fixture
def worker(processes: Processes, url: str, simulator: Simulator, heard: dict[str, str]) -> Process:
    return processes.worker(url=url, simulator=simulator, MAILROOM_SWEEP_INTERVAL="200", **heard)


def mailroom(url: str, simulator: Simulator, *arguments: str) -> Ended:
    return run([*MAILROOM, *arguments], env=sending(url, simulator))


def request(connection: Connection, action: str, account: int) -> int:
    token: int = connection.scalar(
        text("SELECT request_mail(:action, :account)"), {"action": action, "account": account}
    )
    return token


def outcome(connection: Connection, token: int) -> str | None:
    decided = "token = :token AND NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')"
    found = rows(connection, f"SELECT outcome FROM deliveries WHERE {decided}", token=token)  # noqa: S608
    return found[0].outcome if found else None


def mails(simulator: Simulator, address: str) -> list[Mail]:
    return [mail for mail in simulator.ledger.mails if mail.recipients == (address,)]


def told(connection: Connection, kind: str) -> bool:
    return bool(rows(connection, "SELECT FROM events WHERE kind = CAST(:kind AS event_kind)", kind=kind))


@pytest.mark.slow
def test_an_address_that_bounces_is_mailed_no_more_until_somebody_releases_it(
    connection: Connection, url: str, simulator: Simulator, worker: Process
) -> None:
    address = "bounce@simulator.example"
    account: int = connection.scalar(text("SELECT add_account(:email, 'nobody')"), {"email": address}) or 0
    eventually(lambda: told(connection, "bounce"), "the bounce is on record")
    [first] = [row.id for row in rows(connection, "SELECT id FROM tokens")]
    again = request(connection, "activation", account)
    eventually(lambda: outcome(connection, again) == "suppressed", "the next mail is not sent")

    life = mailroom(url, simulator, "jobs", "show", str(first))
    assert life.code == 0
    assert "bounce" in life.out
    listed = mailroom(url, simulator, "suppressions", "list")
    assert (listed.code, "bounce" in listed.out, address in listed.out) == (0, True, False)
    assert "SES" in mailroom(url, simulator, "suppressions", "show", address).out

    released = mailroom(url, simulator, "suppressions", "release", address)
    assert released.code == 0, released
    assert simulator.suppression.is_empty()
    connection.execute(text("UPDATE accounts SET status = 'active' WHERE id = :id"), {"id": account})
    recovery = request(connection, "password_recovery", account)
    eventually(lambda: outcome(connection, recovery) == "sent", "a recovery leaves")
    assert misplaced(connection) == []


@pytest.mark.slow
def test_what_cannot_be_rendered_comes_back_and_leaves_once_the_template_is_repaired(
    connection: Connection, url: str, simulator: Simulator, worker: Process
) -> None:
    simulator.faults.add(Fault(rendering_failure=True, times=1))
    connection.execute(
        text("INSERT INTO accounts (email, login) SELECT n || '@example.com', n FROM generate_series(1, 3) AS n")
    )
    eventually(lambda: rows(connection, "SELECT FROM pauses WHERE scope = 'activation'"), "the action is paused")
    waiting = "SELECT token FROM jobs WHERE attempt = 1"
    # Where the event is there before the answer is on record, a worker looks again within a minute.
    eventually(lambda: len(rows(connection, waiting)) == 3, "all come back", seconds=150)
    assert misplaced(connection) == []
    # What status shows was counted at most a quarter of a minute ago: before the pause, where all came back at once.
    status = partial(mailroom, url, simulator, "status")
    eventually(lambda: "RenderingFailure" in status().out, "status tells of the pause", seconds=60)
    assert mailroom(url, simulator, "resume", "activation").code == 0
    sent = "SELECT FROM deliveries WHERE outcome = 'sent' AND NOT late AND retried_at IS NULL"
    eventually(lambda: len(rows(connection, sent)) == 3, "they leave")
    eventually(lambda: len(rows(connection, "SELECT FROM events WHERE kind = 'delivery'")) == 3, "and arrive")
    assert rows(connection, "SELECT FROM pauses") == []
    assert misplaced(connection) == []


@pytest.mark.slow
def test_from_a_folder_of_templates_to_a_recovery_after_a_bounce_all_in_german(
    connection: Connection, url: str, simulator: Simulator, worker: Process, tmp_path: Path
) -> None:
    folder, address = str(tmp_path / "templates"), "erika@example.com"
    site = ("--name", "Shop", "--site", "https://shop.example")
    for step in (["init", folder, *site], ["push", folder, "--use"]):
        done = mailroom(url, simulator, "templates", *step)
        assert done.code == 0, done
    sign_up = text("SELECT add_account(:email, 'Erika Müller', language => 'de')")
    account: int = connection.scalar(sign_up, {"email": address}) or 0
    eventually(lambda: told(connection, "delivery"), "the activation arrives")
    [welcome] = mails(simulator, address)
    assert welcome.subject == "Bitte bestätigen Sie Ihre E-Mail-Adresse"
    for part in (welcome.text or "", welcome.html or ""):
        assert "Erika Müller" in part
        assert f"https://shop.example/activate?token={welcome.variables['secret']}" in part

    simulator.happen(welcome.message_id, FATES["bounce"][-1])  # as of a server that takes it first
    eventually(lambda: told(connection, "bounce"), "the bounce is on record")
    connection.execute(text("UPDATE accounts SET status = 'active' WHERE id = :id"), {"id": account})
    unwanted = request(connection, "password_recovery", account)
    eventually(lambda: outcome(connection, unwanted) == "suppressed", "nothing more is sent")
    listed = mailroom(url, simulator, "suppressions", "list")
    assert (listed.code, "bounce" in listed.out, address in listed.out) == (0, True, False)
    released = mailroom(url, simulator, "suppressions", "release", address)
    assert released.code == 0, released

    recovery = request(connection, "password_recovery", account)
    eventually(lambda: outcome(connection, recovery) == "sent", "a recovery leaves")
    eventually(lambda: len(rows(connection, "SELECT FROM events WHERE kind = 'delivery'")) == 2, "and arrives")
    [_, mail] = mails(simulator, address)
    assert mail.subject == "Wählen Sie ein neues Passwort"
    assert f"https://shop.example/recover?token={mail.variables['secret']}" in (mail.text or "")
    assert mail.variables["code"] in (mail.html or "")
    assert misplaced(connection) == []
