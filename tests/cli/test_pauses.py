"""`pause` and `resume`, and what `status` says of them."""

import json

import pytest
from sqlalchemy import Engine

from mailroom.simulator import Simulator
from tests.cli.command import sending
from tests.cli.conftest import Here
from tests.world import add_accounts


def test_what_is_paused_by_hand_waits_until_it_is_resumed(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 3)
    env = sending(url, ses)
    assert here("pause", "activation", "--reason", "a new template", env=env).out == "paused activation\n"
    assert here("sweep", env=env).code == 1
    assert ses.ledger.counts().requests == 0

    [paused] = json.loads(here("status", "--json", env=env).out)["paused"]
    assert paused.pop("seconds") >= 0
    assert paused == {"scope": "activation", "code": "ByHand", "reason": "a new template", "by_hand": True}
    assert "paused: activation for 0:00:0" in here("status", env=env).out

    assert here("resume", "activation", env=env).out == "resumed activation\n"
    assert here("sweep", env=env).code == 0
    assert ses.ledger.counts().mails == 3


def test_what_is_not_paused_cannot_be_resumed(here: Here, url: str) -> None:
    ended = here("resume", "account", env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (1, "mailroom: account is not paused\n")


@pytest.mark.parametrize("scope", ["everything", "queue:", ""])
def test_what_is_no_scope_is_refused(here: Here, url: str, scope: str) -> None:
    ended = here("pause", scope, env={"MAILROOM_DATABASE_URL": url})
    assert ended.code == 2
    assert (
        "is not a scope: give account, configuration_set, identity, the name of an action, or queue:NAME" in ended.err
    )
