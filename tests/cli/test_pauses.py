"""`pause` and `resume`, and what `status` says of them."""

import json
import re
import shlex

import pytest
from sqlalchemy import Engine, text

from mailroom.simulator import Simulator
from tests.claiming import claim, enqueue, enqueue_recovery, take, tokens_of
from tests.cli.command import sending
from tests.cli.conftest import Here
from tests.telling import BOUNCED, came_back, went_out
from tests.world import add_accounts, count

# A queue has a name, and no blank in it.
NO_QUEUES = ["queue:", "queue:big news", "queue:news\t", "queue:a\u00a0b"]


@pytest.mark.slow
def test_what_is_paused_by_hand_waits_until_it_is_resumed(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
    env = sending(url, ses)
    assert here("pause", "activation", "--reason", "a new template", env=env).out == "paused activation\n"
    assert here("sweep", env=env).code == 1
    assert ses.ledger.counts().requests == 0

    [paused] = json.loads(here("status", "--json", env=env).out)["paused"]
    assert paused.pop("opened_at")
    assert paused.pop("probe_at") is None
    assert paused.pop("seconds") >= 0
    assert paused == {"scope": "activation", "code": "ByHand", "reason": "a new template", "by_hand": True}
    assert "paused: activation for 0:0" in here("status", env=env).out

    assert here("resume", "activation", env=env).out == "resumed activation\n"
    assert here("sweep", env=env).code == 0
    assert ses.ledger.counts().mails == 3


@pytest.mark.slow
def test_a_sweep_stops_bulk_while_too_many_mails_bounce(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    """And a person may let it go on."""
    env = sending(url, ses)
    with engine.connect() as connection:
        came_back(connection, 50, BOUNCED, newest=went_out(connection, 1000))
        enqueue(connection, 51)
        enqueue_recovery(connection)
    assert here("sweep", env=env).code == 1
    assert ses.ledger.counts().mails == 1
    found = json.loads(here("status", "--json", env=env).out)
    assert [(row["scope"], row["code"], row["by_hand"]) for row in found["paused"]] == [
        ("priority:2", "BounceRate", False)
    ]
    assert found["warnings"].keys() == {"BounceRate"}
    out = here("status", env=env).out
    assert "until the rate is lower: BounceRate, 5.00 % of 1000 mails (the newest) bounced for good" in out

    assert here("resume", "priority:2", env=env).code == 0
    assert here("sweep", env=env).code == 0
    assert ses.ledger.counts().mails == 52


def test_what_is_not_paused_cannot_be_resumed(here: Here, url: str) -> None:
    ended = here("resume", "account", env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (1, "mailroom: account is not paused\n")


@pytest.mark.parametrize(
    "scope", ["everything", "queue:", "", "priority:3", "priority:", "queue:big news", "queue:news\t", "queue:a\u00a0b"]
)
def test_what_is_no_scope_is_refused(here: Here, url: str, scope: str) -> None:
    ended = here("pause", scope, env={"MAILROOM_DATABASE_URL": url})
    assert ended.code == 2
    assert (
        "is not a scope: give account, configuration_set, identity, the name of an action, priority:0 to priority:2,"
        " or queue:NAME" in ended.err
    )


def test_a_pause_of_what_is_no_more_can_be_ended(here: Here, url: str, engine: Engine) -> None:
    """As `status` advises: of a kind of mail that was taken away, or of what somebody wrote by hand."""
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO actions (name, number, template, path) VALUES ('trial', 9, 't', '/t')"))
        assert here("pause", "trial", env=env).code == 0
        connection.execute(text("DELETE FROM actions WHERE name = 'trial'"))
        connection.execute(text("INSERT INTO pauses (scope, code, reason) VALUES ('queue:big news', 'ByHand', '')"))
    [*advised] = re.findall("`mailroom (resume [^`]+)`", here("status", env=env).out)
    assert len(advised) == 2
    for command in advised:
        ended = here(*shlex.split(command), env=env)
        assert (ended.code, ended.err) == (0, "")
    assert "resume" not in here("status", env=env).out


def test_what_every_reading_would_carry_has_an_end(here: Here, url: str, engine: Engine) -> None:
    for arguments in (["activation", "--reason", "x" * 301], ["queue:" + "x" * 64]):
        here("pause", *arguments, env={"MAILROOM_DATABASE_URL": url}).assert_one_line(2, "at most")
    longest = ["queue:" + "x" * 63, "--reason", "x" * 300]
    assert here("pause", *longest, env={"MAILROOM_DATABASE_URL": url}).code == 0
    with engine.connect() as connection:
        assert count(connection, "pauses") == 1


def test_a_priority_is_paused_with_what_is_in_quarantine_of_it(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        [token] = enqueue(connection)
        urgent = enqueue_recovery(connection)
        assert here("pause", "priority:1", env=env).out == "paused priority:1\n"
        assert tokens_of(take(connection)) == [urgent]
        for priority in (1, 3):
            connection.execute(text("UPDATE jobs SET priority = :priority"), {"priority": priority})
            assert not claim(connection).batches
        assert here("resume", "priority:1", env=env).out == "resumed priority:1\n"
        assert tokens_of(take(connection)) == [token]
