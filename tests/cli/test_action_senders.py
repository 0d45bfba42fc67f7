"""`mailroom actions set --source --reply-to`: who sends the mails of an action, and who gets the answers."""

import itertools

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from mailroom.queue import lanes
from mailroom.simulator import Simulator
from tests.cli.conftest import Here
from tests.running import Processes, eventually
from tests.world import add_accounts, drained, rows


def senders(connection: Connection) -> list[tuple[str, str | None, str | None]]:
    return [tuple(row) for row in rows(connection, "SELECT * FROM action_senders()")]


def test_a_sender_is_set_and_taken_away(here: Here, url: str, connection: Connection) -> None:
    env = {"MAILROOM_DATABASE_URL": url}
    given = ("--source", "Müller, Söhne <shop@example.com>", "--reply-to", "help@example.com")
    assert here("actions", "set", "activation", *given, env=env).out == "changed activation\n"
    written = "=?utf-8?b?TcO8bGxlciwgU8O2aG5l?= <shop@example.com>"
    assert senders(connection) == [("activation", written, "help@example.com")]
    assert here("actions", "set", "activation", "--source", "none", "--life", "20m", env=env).code == 0
    assert senders(connection) == [("activation", None, "help@example.com")]
    assert here("actions", "set", "activation", "--reply-to", "none", env=env).code == 0
    assert senders(connection) == []


@pytest.mark.parametrize(
    "given",
    [
        *("", "shop", "a@x.org, b@x.org", "a@x.org\nBcc: b@x.org", "müller@x.org"),
        *(
            "x@-",
            "x@-shop.org",
            "Shop <x@shop-.org>",
            "x@shop..org",
            "x..y@shop.org",
            "x@shop",
            "x@localhost",
            "x@.org",
        ),
    ],
)
@pytest.mark.parametrize("option", ["--source", "--reply-to"])
def test_what_is_no_sender_is_refused_in_a_line(here: Here, url: str, option: str, given: str) -> None:
    ended = here("actions", "set", "activation", option, given, env={"MAILROOM_DATABASE_URL": url})
    ended.assert_one_line(2, option, "one address in ASCII")


def test_of_a_change_that_is_refused_nothing_is_changed(here: Here, url: str, connection: Connection) -> None:
    """One of the two functions that it takes: here since a check of the application's refuses it."""
    connection.execute(text("ALTER TABLE actions ADD CONSTRAINT own CHECK (source LIKE '%@shop.example')"))
    given = ("--template", "another", "--source", "a@x.org")
    ended = here("actions", "set", "activation", *given, env={"MAILROOM_DATABASE_URL": url})
    ended.assert_one_line(2, "the database does not accept it", '"own"')
    assert rows(connection, "SELECT template FROM actions WHERE name = 'activation'") == [("activationv1",)]


def test_an_action_that_is_not_there_has_no_sender(here: Here, url: str) -> None:
    ended = here("actions", "set", "gone", "--source", "a@x.org", env={"MAILROOM_DATABASE_URL": url})
    ended.assert_one_line(1, "there is no action gone")


def test_the_database_takes_nothing_that_ends_a_header(connection: Connection) -> None:
    for update in ("UPDATE actions SET source = :value", "UPDATE actions SET reply_to = :value"):
        for value in ("a@x.org\r\nBcc: b@x.org", "müller@x.org", "shop"):
            with pytest.raises(IntegrityError, match=r"actions_(source|reply_to)"):
                connection.execute(text(update), {"value": value})


def test_the_lanes_know_who_sends(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("UPDATE actions SET source = 'a@x.org', reply_to = 'b@x.org' WHERE number = 2"))
        found = lanes.read(connection).actions
    assert (found["activation"].source, found["activation"].reply_to) == (None, None)
    assert (found["password_recovery"].source, found["password_recovery"].reply_to) == ("a@x.org", "b@x.org")


def test_a_worker_that_runs_takes_up_another_sender(
    url: str, connection: Connection, simulator: Simulator, processes: Processes
) -> None:
    source = {"MAILROOM_SES_SOURCE": "Mailroom <noreply@example.com>", "MAILROOM_SWEEP_INTERVAL": "50"}
    processes.worker(url=url, simulator=simulator, **source)
    add_accounts(connection, 3)
    eventually(lambda: drained(connection), "the first are sent")
    connection.execute(text("UPDATE actions SET source = 'Shop <shop@example.com>' WHERE name = 'activation'"))
    numbers = itertools.count()

    def sources() -> set[str]:
        add_accounts(connection, 1, prefix=f"later{next(numbers)}-")
        return {mail.source for mail in simulator.ledger.mails}

    both = {"Mailroom <noreply@example.com>", "Shop <shop@example.com>"}
    eventually(lambda: sources() == both, "a mail has the other sender")
