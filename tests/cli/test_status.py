"""`status`: a table for people and JSON for programs, that say the same."""

import json

from sqlalchemy import Engine, text

from mailroom.simulator import Fault, Simulator
from tests.cli.command import sending
from tests.cli.conftest import Here
from tests.world import add_accounts, ask_recovery


def test_an_empty_queue(here: Here, url: str) -> None:
    ended = here("status", env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "waiting: nothing",
        "in flight: 0 jobs in 0 batches, 0 past their lease",
        "outcomes: none in the last day",
    ]


def test_the_table_and_the_json_tell_of_a_run(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 4)
    ses.faults.add(Fault(entries={0: "MESSAGE_REJECTED"}))
    assert here("sweep", env=sending(url, ses)).code == 0
    with engine.connect() as connection:
        connection.execute(text("SET mailroom.queue = 'a[/b]:smile:'"))
        add_accounts(connection, 1234, prefix="many")
        [active] = add_accounts(connection, 1, status="active", prefix="active")
        ask_recovery(connection, active)
        connection.execute(text("RESET mailroom.queue"))
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '2 days' WHERE priority = 0"))
        connection.execute(
            text("UPDATE deliveries SET created_at = now() - interval '2 hours' WHERE outcome <> 'sent'")
        )

    ended = here("status", "--json", env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found.pop("health").keys() >= {"holder", "held_seconds", "dead_jobs", "vacuumed", "waited_seconds"}
    assert found.pop("warnings")["OldJob0"].startswith("the oldest urgent job has been due for 1728")
    ages = [row.pop("oldest_seconds") for row in found["waiting"]]
    assert 172_800 <= ages[0] < 172_900
    assert 0 < ages[1] < 100
    assert found == {
        "waiting": [
            {"queue": "a[/b]:smile:", "priority": 0, "action": "password_recovery", "jobs": 1, "due": 1},
            {"queue": "a[/b]:smile:", "priority": 2, "action": "activation", "jobs": 1234, "due": 1234},
        ],
        "paused": [],
        "in_flight": {"batches": 0, "jobs": 0, "overdue": 0},
        "outcomes": {"hour": {"sent": 3}, "day": {"sent": 3, "rejected": 1}},
    }

    table = here("status", env={"MAILROOM_DATABASE_URL": url, "COLUMNS": "100"}).out
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if "│" in line]
    assert [row[:5] for row in cells[:2]] == [
        ["a[/b]:smile:", "0 urgent", "password_recovery", "1", "1"],
        ["a[/b]:smile:", "2 bulk", "activation", "1,234", "1,234"],
    ]
    assert cells[0][5].startswith("2 days, 0:00:")
    assert cells[2:] == [["rejected", "0", "1"], ["sent", "3", "3"]]


def test_leases_that_ran_out_are_told(here: Here, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(
            text(
                "INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)"
                " VALUES ('mailroom', 'gone', 'activation', 1, now(), '{1,2,3}', '{0,0,0}', now() - interval '1 s')"
            )
        )
    out = here("status", env={"MAILROOM_DATABASE_URL": url}).out
    assert "in flight: 3 jobs in 1 batches, 1 past their lease" in out
