"""`status`: a table for people and JSON for programs, that say the same."""

import json
import re
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, text

from mailroom.db.engine import connect_engine
from mailroom.event import EventKind
from mailroom.ops import suppressions
from mailroom.ops.refresh import refresh
from mailroom.simulator import Fault, Simulator
from tests.claiming import enqueue
from tests.cli.command import sending
from tests.cli.conftest import Here
from tests.servers import migrate
from tests.telling import BOUNCED, HARD, came_back, mail, moment, tell, went_out
from tests.world import add_accounts, ask_recovery


def test_an_empty_queue(here: Here, url: str) -> None:
    ended = here("status", env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "The next mail will not leave: no worker takes the queue mailroom; start one: `mailroom worker`.",
        "act: NoWorker: the next mail will not leave: no worker takes the queue mailroom: none has been seen"
        " for a day; nothing is due now -> start one: `mailroom worker`; where cron sweeps, see that it runs",
        "waiting: nothing",
        "in flight: 0 jobs in 0 batches, 0 past their lease",
        "outcomes: none in the last day",
    ]


def test_the_table_and_the_json_tell_of_a_run(here: Here, ses: Simulator, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 4)
        connection.execute(text("UPDATE readings SET due_at = now() + interval '1 minute'"))  # the sweep need not count
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
    assert [(need["code"], need["state"]) for need in found.pop("needs")] == [("NoWorker", "act")]
    assert found.pop("feedback").keys() == {"feed", "suppressed", "reputation"}
    assert found.pop("warnings")["OldJob0"].startswith("the oldest urgent job has been due for 1728")
    ages = [row.pop("oldest_seconds") for row in found["waiting"]]
    assert [(row.pop("later"), row.pop("held"), row.pop("capped")) for row in found["waiting"]] == [(0, 0, False)] * 2
    assert (found.pop("jobs_estimate"), found.pop("age_seconds")) == (1235, 0)
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
    assert "in flight: 3 jobs in 1 batch, 1 past their lease" in out


def test_what_ses_told_is_shown_once_it_told_something(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        came_back(connection, 30, BOUNCED, newest=went_out(connection, 999))
        assert "rates" not in here("status", env=env).out
        connection.execute(text("DELETE FROM deliveries WHERE token = 1"))  # a real one follows, with another token
        out = mail(connection, enqueue(connection)[0], "sent")
        connection.execute(text("UPDATE deliveries SET token = 1000000 WHERE token = :token"), {"token": out.token})
        tell(connection, replace(out, token=1_000_000), EventKind.BOUNCE, moment(1), **HARD)
        tell(connection, replace(out, fence=uuid4()), EventKind.SEND, moment(1))
        suppressions.add(connection, "ada@example.com")
        connection.execute(text("UPDATE deliveries SET retried_at = now() WHERE token = 2"))
    lines = here("status", env=env).out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("events: "))
    aws = "(AWS: 5.0% and 10.0%, 0.1% and 0.5%)"
    assert lines[start].startswith("events: the newest 0:0")
    assert lines[start].endswith(" ago, 1 in all, 0 of elsewhere, 1 of unknown mails")
    assert lines[start + 1 : start + 4] == [
        f"rates: of the newest 998 mails: bounced 3.11%, complained of 0.00% {aws}",
        f"rates: of the last 24 hours, 998 mails: bounced 3.11%, complained of 0.00% {aws}",
        "suppressed: added 1, bounce 1",
    ]
    found = json.loads(here("status", "--json", env=env).out)
    assert found["feedback"]["suppressed"] == {"added": 1, "bounce": 1}
    assert found["feedback"]["feed"]["unknown"] == 1
    assert found["feedback"]["reputation"]["newest"]["bounces"] == 31
    assert found["outcomes"]["hour"] == {"sent": 998, "taken_back": 1}


def test_a_script_is_told_of_a_warning_by_the_exit_code(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        add_accounts(connection, 1)
        assert here("status", "--check", env=env).code == 0
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '16 minutes'"))
    for arguments in (["--check"], ["--check", "--json"]):
        ended = here("status", *arguments, env=env)
        assert (ended.code, ended.err) == (1, "")
        assert "OldJob1" in ended.out
    assert here("status", env=env).code == 0


def test_what_is_no_warning_fails_no_script_though_it_needs_somebody(here: Here, url: str, engine: Engine) -> None:
    """As before a first worker is started, or while somebody has paused. A mail that waits for that is late in time."""
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        add_accounts(connection, 1)
        connection.execute(text("INSERT INTO pauses (scope, code, reason) VALUES ('account', 'ByHand', 'a test')"))
    ended = here("status", "--check", env=env)
    assert "act: NoWorker: " in ended.out
    assert ended.code == 0


@pytest.mark.parametrize("minutes_ago", [(1, 1, 1), (1, 3, 6)], ids=["just now", "now and then"])
def test_a_script_is_told_of_a_few_mails_that_are_denied_for_ever(
    here: Here, ses: Simulator, url: str, engine: Engine, minutes_ago: tuple[int, ...]
) -> None:
    """They cost no attempt, pause nothing, and are due again in a moment: none has ever waited for long."""
    env = sending(url, ses)
    with engine.connect() as connection:
        add_accounts(connection, 1, prefix="first")
        assert here("sweep", env=env).code == 0  # where nothing was ever accepted, the account is paused
        connection.execute(text("UPDATE deliveries SET created_at = created_at - interval '20 minutes'"))
        ses.faults.add(Fault(error="AccessDeniedException", status=403, times=None))
        add_accounts(connection, 1)
        for ago in minutes_ago:
            connection.execute(text("UPDATE jobs SET due_at = now()"))
            assert here("sweep", env=env).code == 0  # nothing is due any more
            aged = "UPDATE deliveries SET created_at = created_at - make_interval(mins => :ago) WHERE id = :newest"
            [(newest,)] = connection.execute(text("SELECT max(id) FROM deliveries")).all()
            connection.execute(text(aged), {"ago": ago, "newest": newest})
        connection.execute(text("UPDATE readings SET minutes_until = NULL, due_at = now() - interval '1 minute'"))
        assert refresh(engine)
        assert connection.execute(text("SELECT count(*) FROM deliveries WHERE outcome = 'deferred'")).scalar() == 3
    ended = here("status", "--check", env=env)
    assert "act: Deferred: " in ended.out
    assert ended.code == 1
    found = json.loads(here("status", "--json", env=env).out)
    assert [need["code"] for need in found["needs"] if need["state"] == "act"] == ["Deferred"]
    assert found["warnings"] == {}
    assert re.search(r"^.*queue.*Deferred: .*AccessDeniedException", here("doctor", env=env).out, re.MULTILINE)


def test_what_the_fleet_counted_is_shown_with_its_age(here: Here, url: str, engine: Engine) -> None:
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        enqueue(connection, 3)
        assert refresh(engine)
        connection.execute(text("UPDATE readings SET read_at = read_at - interval '30 seconds'"))
        enqueue(connection, 2, prefix="since")
        out = here("status", env=env).out
        assert re.search(r"^counted [3-5]\d", out, re.MULTILINE)
        assert "│    3 │   3 │" in out
        connection.execute(text("UPDATE readings SET read_at = read_at - interval '60 seconds'"))
    out = here("status", env=env).out
    assert "\ncounted" not in out
    assert "│    5 │   5 │" in out
    assert re.search(r"warning: NoReading: nobody has counted for (9|1\d)\d", out)


@pytest.mark.slow
def test_a_table_that_is_locked_is_not_waited_for(
    here: Here, url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is why one asks: no worker counts any more, and what was counted last is more than nothing."""
    monkeypatch.setattr("mailroom.cli.status.ANSWER_WITHIN", timedelta(seconds=1))
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        enqueue(connection, 3)
        assert refresh(engine)
        connection.execute(text("UPDATE readings SET read_at = read_at - interval '5 minutes'"))
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as holder:
        holder.execute(text("LOCK TABLE jobs"))
        ended = here("status", "--json", env=env)
    told = json.loads(ended.out)
    assert [row["jobs"] for row in told["waiting"]] == [3]
    assert told["warnings"].keys() == {"NoReading", "QueueUnread"}


def test_a_count_that_ends_is_told_from_one_that_does_not(here: Here, url: str, engine: Engine) -> None:
    """Only what was counted up to the cap is more than that."""
    with engine.connect() as connection:
        enqueue(connection, 5)
        enqueue(connection, 10_003, prefix="later")
        connection.execute(text("UPDATE jobs SET priority = 1"))
        later = "UPDATE jobs SET due_at = now() + interval '1 hour' WHERE token > (SELECT min(token) + 4 FROM jobs)"
        connection.execute(text(later))
    out = here("status", env={"MAILROOM_DATABASE_URL": url}).out
    assert re.search(r"│ 10,006\+ │   5 │", out), out


def test_ages_of_what_is_ahead_of_the_clock_are_no_days_before_it(here: Here, url: str, engine: Engine) -> None:
    with engine.connect() as connection:
        pause = "INSERT INTO pauses (scope, code, reason, opened_at) VALUES ('account', 'ByHand', 'a test', :at)"
        connection.execute(text(pause.replace(":at", "now() + interval '1 hour'")))
        connection.execute(text("UPDATE feed SET heard_at = now() + interval '1 hour', polled_at = now()"))
    out = here("status", env={"MAILROOM_DATABASE_URL": url}).out
    assert "-1 day" not in out
    assert re.search(r"^paused: account for (0:59|1:00)", out, re.MULTILINE)
    assert re.search(r"^events: the newest (0:59|1:00):\d\d ago", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["mailroom", 'Post "room'])
def test_what_is_advised_of_a_table_can_be_run_in_any_schema(here: Here, empty_url: str, schema: str) -> None:
    """By whoever reads it in `status`, `doctor` or on the page, whatever the search_path is."""
    migrate(empty_url, schema=schema)
    env = {"MAILROOM_DATABASE_URL": empty_url, "MAILROOM_SCHEMA": schema, "MAILROOM_DEBUG": "1"}
    engine = connect_engine(empty_url, schema=schema, pool_size=2)
    with closing(psycopg.connect(empty_url, autocommit=True)) as owner:
        owner.execute(sql.SQL("ALTER TABLE {}.jobs SET (autovacuum_enabled = off)").format(sql.Identifier(schema)))
        told = [here("status", env=env).out, here("doctor", env=env).out]
        assert refresh(engine) is not None
        engine.dispose()
        for words in (*told, here("status", env=env).out):
            [advised] = {each for each in re.findall("`([^`]+)`", words) if "autovacuum_enabled" in each}
            owner.execute(advised.encode())
