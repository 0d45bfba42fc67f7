"""`jobs`: what an operator sees of single jobs, and does to them; and what the queue makes of that."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom.db import functions
from mailroom.event import EventKind
from mailroom.outcome import Rejected, Unconfirmed
from mailroom.queue import by_hand
from mailroom.queue.by_hand import Retried
from mailroom.simulator import Fault, Simulator
from tests.claiming import enqueue, settle, take, waited
from tests.cli.command import add, sending
from tests.cli.conftest import Here
from tests.running import eventually
from tests.telling import HARD, mail, moment, tell
from tests.world import add_accounts, ask_recovery, count, execute, misplaced, rows

CLAIM = (
    "WITH taken AS (DELETE FROM jobs WHERE token = 1 RETURNING *)"
    " INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)"
    " SELECT queue, 'test', action, priority, due_at, ARRAY[token], ARRAY[attempt], now() + interval '1 minute'"
    " FROM taken"
)


SENT = (
    "INSERT INTO deliveries (token, account, batch, action, outcome, attempt)"
    " SELECT id, account, 9, action, 'sent', 1 FROM tokens"
)


OTHERS = "SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"


@pytest.fixture
def env(ses: Simulator, url: str) -> dict[str, str]:
    return sending(url, ses) | {"COLUMNS": "200"}


@pytest.fixture(autouse=True)
def _each_token_is_in_one_place(engine: Engine) -> Any:
    yield
    with engine.connect() as connection:
        assert misplaced(connection) == []


def execute_on(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(text(statement))


def reject(here: Here, ses: Simulator, engine: Engine, env: dict[str, str], count: int = 1) -> None:
    """Let mails to new accounts have been rejected."""
    add(engine, count, prefix="rejected")
    assert here("sweep", env=env).code == 0
    execute(engine, "UPDATE deliveries SET outcome = 'rejected', message_id = NULL, error_code = 'MessageRejected'")
    ses.reset()
    ses.configuration_sets.create("default")


def listed(here: Here, env: dict[str, str], *options: str) -> list[dict[str, Any]]:
    ended = here("jobs", "list", "--json", *options, env=env)
    assert (ended.code, ended.err) == (0, ""), ended
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


def tokens(here: Here, env: dict[str, str], *options: str) -> list[int]:
    return [row["token"] for row in listed(here, env, *options)]


# Looking


def test_a_job_that_moves_while_it_is_shown_is_shown_in_one_place(
    here: Here, env: dict[str, str], engine: Engine
) -> None:
    """Between the look at the record and the look at the queue."""
    add(engine, 1)
    over = threading.Event()

    def settle_meanwhile(*told: Any) -> None:
        statement = told[2]
        if "attempts" in statement and not over.is_set():
            over.set()
            with engine.connect() as connection:
                assert settle(connection, take(connection), Rejected("MessageRejected", "a reason"))

    event.listen(Engine, "after_cursor_execute", settle_meanwhile)
    try:
        ended = here("jobs", "show", "1", "--json", env=env)
    finally:
        event.remove(Engine, "after_cursor_execute", settle_meanwhile)
    assert over.is_set()
    assert [row["state"] for row in json.loads(ended.out)["history"]] == ["waiting"]


def test_what_waits_is_held_or_in_flight_is_listed(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 4)
    execute(engine, CLAIM, "UPDATE jobs SET due_at = 'infinity' WHERE token = 4")
    found = listed(here, env)
    assert [(row["token"], row["state"], row["priority"]) for row in found] == [
        (1, "in flight", 1),
        (2, "waiting", 1),
        (3, "waiting", 1),
        (4, "held", 1),
    ]
    assert (found[0]["batch"], found[3]["at"]) == (1, None)
    assert tokens(here, env, "--held") == [4]
    assert tokens(here, env, "--limit", "2") == [1, 2]


@pytest.mark.slow
def test_what_is_on_record_is_listed_by_its_outcome_the_newest_first(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env, 2)
    add(engine, 2)
    assert here("sweep", env=env).code == 0
    assert tokens(here, env) == []
    assert tokens(here, env, "--outcome", "sent") == [4, 3]
    assert tokens(here, env, "--outcome", "sent", "--outcome", "rejected") == [4, 3, 2, 1]
    assert tokens(here, env, "--code", "MessageRejected") == [2, 1]
    [row] = listed(here, env, "--outcome", "rejected", "--token", "1")
    assert (row["state"], row["outcome"], row["account"], row["attempt"]) == ("finished", "rejected", 1, 0)


def test_they_are_found_by_token_account_queue_and_time(here: Here, env: dict[str, str], engine: Engine) -> None:
    with engine.connect() as connection:
        add_accounts(connection, 2)
        connection.execute(text("SET mailroom.queue = 'news'"))
        add_accounts(connection, 1, prefix="news")
        [active] = add_accounts(connection, 1, status="active", prefix="active")
        ask_recovery(connection, active)
        connection.execute(text("RESET mailroom.queue"))
        connection.execute(text("UPDATE jobs SET due_at = '2026-01-02 03:04Z' WHERE token = 2"))
    assert tokens(here, env, "--queue", "news") == [4, 3]
    assert tokens(here, env, "--account", "4") == [4]
    assert tokens(here, env, "--token", "3", "--token", "1") == [1, 3]
    assert tokens(here, env, "--until", "1h") == [2]
    assert tokens(here, env, "--since", "1h") == [4, 1, 3]
    assert tokens(here, env, "--since", "2026-01-02T03:04", "--until", "2026-01-02T03:05") == [2]
    assert tokens(here, env, "--since", "2026-01-02T03:04:01", "--until", "2026-01-03") == []
    assert tokens(here, env, "--until", "2026-01-02T04:04:01+01:00") == [2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("list --outcome lost", "'lost' is not an outcome: give sent, rejected"),
        ("list --since yesterday", "'yesterday' is not a time"),
        ("list --outcome sent --queue news", "--queue does not go with --outcome or --code"),
        ("list --outcome unconfirmed --held", "--held does not go with --outcome or --code"),
        ("retry", "name tokens"),
        ("release", "name tokens"),
        ("drop", "name tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(here: Here, env: dict[str, str], options: str, words: str) -> None:
    here("jobs", *options.split(), env=env).assert_one_line(2, words)


@pytest.mark.slow
def test_addresses_are_shown_only_if_asked_for(here: Here, ses: Simulator, env: dict[str, str], engine: Engine) -> None:
    reject(here, ses, engine, env)
    add(engine, 1)
    for command in (["list"], ["list", "--outcome", "rejected"], ["show", "1"], ["show", "2"]):
        for form in ([], ["--json"]):
            assert "@" not in here("jobs", *command, *form, env=env).out
            shown = here("jobs", *command, "--show-addresses", *form, env=env).out
            assert "1@example.com" in shown
    secrets = [row for row in listed(here, env, "--show-addresses") if {"secret", "code_digits"} & row.keys()]
    assert secrets == []


def test_the_table_for_people_is_not_cut(here: Here, env: dict[str, str], engine: Engine) -> None:
    assert here("jobs", "list", env=env).out == "no jobs\n"
    execute(engine, "SET mailroom.queue = 'a[/b]:smile:'")
    add(engine, 1)
    execute(engine, "UPDATE jobs SET queue = 'a[/b]:smile:', due_at = '2026-01-02 03:04Z'")
    out = here("jobs", "list", env=env | {"COLUMNS": "20"}).out
    [line] = [line for line in out.splitlines() if "activation" in line]
    for cell in ("waiting", "2026-01-02 03:04:00Z", "a[/b]:smile:", "normal"):
        assert cell in line


@pytest.mark.slow
def test_show_tells_the_whole_history(here: Here, ses: Simulator, env: dict[str, str], engine: Engine) -> None:
    add(engine, 1)
    ses.faults.add(Fault(operation="SendEmail", accept_then="drop"))
    here("sweep", env=env)
    execute(engine, "UPDATE jobs SET due_at = now()")
    told = json.loads(here("jobs", "show", "1", "--json", env=env).out)
    assert (told["token"]["id"], told["token"]["consumed_at"]) == (1, None)
    assert [(row["state"], row["outcome"]) for row in told["history"]] == [("tried", "unconfirmed"), ("waiting", None)]
    assert here("sweep", env=env).code == 0
    told = json.loads(here("jobs", "show", "1", "--json", env=env).out)
    assert [(row["state"], row["outcome"]) for row in told["history"]] == [
        ("tried", "unconfirmed"),
        ("finished", "sent"),
    ]
    assert told["history"][1]["message_id"]
    out = here("jobs", "show", "1", env=env).out
    assert out.startswith("token 1 of account 1: made ")
    assert "unconfirmed" in out


def test_show_tells_what_ses_told_among_the_attempts(here: Here, env: dict[str, str], engine: Engine) -> None:
    with engine.connect() as connection:
        [token] = enqueue(connection)
        first = take(connection)
        settle(connection, first, Unconfirmed("TimeOut", "no answer"))
        waited(connection)
        out = mail(connection, token, "m1")
        lost = replace(out, fence=first.fence, message_id="m0")
        tell(connection, out, EventKind.BOUNCE, moment(-3), **HARD)
        tell(connection, out, EventKind.DELIVERY_DELAY, moment(-2), type="MailboxFull")
        tell(connection, lost, EventKind.DELIVERY, moment(-1))
        tell(connection, out, EventKind.SEND, moment(1))

    lines = here("jobs", "show", str(token), env=env).out.splitlines()
    assert [re.findall(r"tried|finished|late|event", line)[:1] for line in lines if "│" in line] == [
        *(["event"], ["tried"], ["finished"], ["late"], ["event"], ["event"], ["event"]),
    ]
    assert re.search(r"event .* bounce +│ Permanent General 5\.1\.1", lines[-2])
    assert re.search(r"event .* delivery_delay +│ MailboxFull", lines[-3])
    told = json.loads(here("jobs", "show", str(token), "--json", env=env).out)
    assert [row["outcome"] for row in told["history"]] == ["unconfirmed", "sent", "sent"]
    assert [(row["kind"], row["message_id"], row["status"]) for row in told["events"]] == [
        ("send", "m1", ""),
        ("delivery", "m0", ""),
        ("delivery_delay", "m1", ""),
        ("bounce", "m1", "5.1.1"),
    ]
    assert "hash" not in str(told)


def test_show_of_a_token_that_is_gone_or_never_was(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 1)
    execute(engine, "DELETE FROM accounts")
    assert here("jobs", "show", "1", env=env).out.startswith("token 1: gone")
    here("jobs", "show", "7", env=env).assert_one_line(1, "nothing is known of token 7")


# Retry


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["rejected", "failed", "expired", "cancelled", "suppressed"])
def test_what_is_over_and_was_not_sent_can_be_tried_again(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine, outcome: str
) -> None:
    reject(here, ses, engine, env)
    execute(engine, f"UPDATE deliveries SET outcome = '{outcome}'")  # noqa: S608 - one of the words above
    assert here("jobs", "retry", "1", env=env).out == "put back 1, made due 0\n"
    with engine.connect() as connection:
        assert misplaced(connection) == []
        assert rows(connection, "SELECT token, priority, attempt, queue FROM jobs") == [(1, 1, 1, "mailroom")]
    assert here("sweep", env=env).code == 0
    told = json.loads(here("jobs", "show", "1", "--json", env=env).out)["history"]
    assert [(row["state"], row["outcome"]) for row in told] == [("retried", outcome), ("finished", "sent")]


@pytest.mark.slow
def test_a_retry_is_not_a_delivery_that_prune_or_reconcile_could_stumble_over(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env)
    here("jobs", "retry", "1", env=env)
    execute(
        engine,
        "UPDATE deliveries SET created_at = now() - interval '100 days'",
        "UPDATE tokens SET created_at = now() - interval '100 days', expires_at = now() - interval '100 days'",
    )
    assert here("prune", "--older-than", "90d", env=env).out == "deleted 0 deliveries and 0 tokens\n"
    execute(engine, "DELETE FROM jobs")  # lost, after all
    assert here("prune", "--older-than", "90d", env=env).out == "deleted 0 deliveries and 0 tokens\n"
    assert here("sweep", "--full", env=env).code == 0
    assert ses.ledger.counts().mails == 1


def test_two_retries_at_once_put_back_one_job(here: Here, ses: Simulator, env: dict[str, str], engine: Engine) -> None:
    """The second one waits for the first. By then its job has been sent, so that no key keeps the second one out."""
    reject(here, ses, engine, env)
    second: list[Retried] = []

    def retry() -> None:
        with engine.connect() as connection:
            second.append(by_hand.retry(connection, [1], queue="mailroom"))

    thread = threading.Thread(target=retry)
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as first, first.begin():
        assert by_hand.retry(first, [1], queue="mailroom").put_back == [1]
        thread.start()
        with engine.connect() as looking:
            eventually(lambda: count(looking, "pg_locks WHERE NOT granted"), "the second waits")
        execute_on(first, "DELETE FROM jobs", SENT)
    thread.join()
    assert second == [Retried([], [])]
    assert tokens(here, env) == []


@pytest.mark.slow
def test_many_are_chosen_by_what_became_of_them(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env, 60)
    add(engine, 5)
    assert here("sweep", env=env).code == 0
    assert here("jobs", "retry", "--outcome", "rejected", "--limit", "2", env=env).out == "put back 2, made due 0\n"
    assert here("jobs", "retry", "--outcome", "sent", env=env).out == "put back 0, made due 0\n"
    done = json.loads(here("jobs", "retry", "--outcome", "rejected", "--since", "1h", "--json", env=env).out)
    assert (len(done["put_back"]), done["made_due"], done["left"]) == (58, [], {})
    with engine.connect() as connection:
        assert rows(connection, "SELECT priority, count(*) FROM jobs GROUP BY 1 ORDER BY 1") == [(1, 2), (2, 58)]
    assert here("jobs", "retry", "--outcome", "rejected", env=env).out == "put back 0, made due 0\n"


def test_what_waits_for_later_comes_due(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 3)
    execute(
        engine,
        "UPDATE jobs SET due_at = now() + interval '1 hour' WHERE token < 3",
        "UPDATE jobs SET due_at = now() - interval '1 hour' WHERE token = 3",
    )
    assert here("jobs", "retry", "1", "3", env=env).out == "put back 0, made due 2\n"
    with engine.connect() as connection:
        due = rows(connection, "SELECT token, due_at < now() - interval '30 minutes' FROM jobs WHERE due_at <= now()")
    assert sorted(due) == [(1, False), (3, True)]  # who has waited long keeps its place


@pytest.mark.slow
def test_what_was_sent_is_held_in_flight_or_consumed_is_left(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env)
    execute(engine, "UPDATE tokens SET consumed_at = now()")
    add(engine, 1)
    assert here("sweep", env=env).code == 0
    add(engine, 2, prefix="more")
    execute(engine, CLAIM.replace("token = 1", "token = 3"), "UPDATE jobs SET due_at = 'infinity' WHERE token = 4")
    ended = here("jobs", "retry", "1", "2", "3", "4", "5", env=env)
    assert (ended.code, ended.out) == (1, "put back 0, made due 0\n")
    for words in ("1 (rejected)", "2 (sent)", "3 (in flight)", "4 (held)", "5 (nothing is known of it)"):
        assert words in ended.err


@pytest.mark.slow
def test_what_ses_took_after_all_is_not_sent_again(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env)
    execute(
        engine,
        "UPDATE deliveries SET outcome = 'failed'",
        "INSERT INTO deliveries (token, account, batch, action, outcome, attempt, late)"
        " SELECT token, account, 9, action, 'sent', 0, true FROM deliveries",
    )
    assert here("jobs", "retry", "1", env=env).code == 1
    assert here("sweep", env=env).code == 0
    assert ses.ledger.mails == []


@pytest.mark.slow
def test_an_answer_that_comes_after_the_retry_is_heard_too(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env)
    assert here("jobs", "retry", "1", env=env).code == 0
    execute(
        engine,
        "INSERT INTO deliveries (token, account, batch, action, outcome, attempt, late)"
        " SELECT token, account, 9, action, 'sent', 0, true FROM deliveries",
    )
    assert here("sweep", env=env).code == 0
    assert ses.ledger.mails == []
    assert listed(here, env, "--outcome", "sent")[0]["code"] == "AcceptedLate"


@pytest.mark.slow
def test_a_job_goes_back_to_the_queue_that_is_named(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    reject(here, ses, engine, env)
    here("jobs", "retry", "1", "--queue-name", "news", env=env)
    assert tokens(here, env, "--queue", "news") == [1]


# Release


@pytest.fixture
def held(here: Here, ses: Simulator, env: dict[str, str], engine: Engine) -> list[int]:
    """Three mails that SES took without a word, and that are held."""
    add(engine, 3)
    ses.faults.add(Fault(operation="SendBulkEmail", accept_then="drop"))
    here("sweep", env=env | {"MAILROOM_ON_UNCONFIRMED": "hold"})
    with engine.connect() as connection:
        assert count(connection, "jobs WHERE due_at = 'infinity'") == 3
    return [1, 2, 3]


@pytest.mark.slow
def test_what_is_held_is_listed_with_when_it_was_tried(
    here: Here, env: dict[str, str], engine: Engine, held: list[int]
) -> None:
    add(engine, 1, prefix="waiting")
    execute(engine, "UPDATE deliveries SET created_at = '2026-01-02 03:04Z' WHERE token = 2")
    assert tokens(here, env, "--held") == [1, 2, 3]
    assert listed(here, env, "--held")[1]["at"] == "2026-01-02T03:04:00+00:00"
    assert tokens(here, env, "--held", "--until", "1h") == [2]
    assert tokens(here, env, "--held", "--since", "1h") == [1, 3]
    assert tokens(here, env) == [4, 1, 2, 3]


@pytest.mark.slow
def test_what_is_released_is_sent_again_alone_and_the_rest_stays_held(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine, held: list[int]
) -> None:
    assert here("jobs", "release", "1", "3", env=env).out == "released 2\n"
    assert here("sweep", env=env | {"MAILROOM_ON_UNCONFIRMED": "hold"}).code == 0
    assert [request.operation for request in ses.ledger.requests if "Send" in request.operation] == [
        *("SendBulkEmail", "SendEmail", "SendEmail")
    ]
    assert tokens(here, env, "--held") == [2]


@pytest.mark.slow
def test_what_is_not_held_is_not_released(here: Here, env: dict[str, str], engine: Engine, held: list[int]) -> None:
    add(engine, 1, prefix="waiting")
    execute(engine, "UPDATE jobs SET due_at = now() + interval '1 hour' WHERE token = 4")
    ended = here("jobs", "release", "1", "4", "5", "--json", env=env)
    left = {"4": "waiting", "5": "nothing is known of it"}
    assert (ended.code, json.loads(ended.out)) == (1, {"released": [1], "left": left})
    assert here("jobs", "release", "--queue", "mailroom", env=env).out == "released 2\n"
    with engine.connect() as connection:
        assert count(connection, "jobs WHERE due_at > now()") == 1


@pytest.mark.slow
def test_what_ses_took_without_a_word_is_not_sent_again_once_that_is_known(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine, held: list[int]
) -> None:
    execute(
        engine,
        "INSERT INTO deliveries (token, account, batch, action, outcome, attempt, late)"
        " SELECT token, account, batch, action, 'sent', attempt, true FROM deliveries",
    )
    assert here("jobs", "release", "--since", "1h", env=env).out == "released 3\n"
    assert here("sweep", env=env).code == 0
    assert ses.ledger.counts().mails == 3
    assert tokens(here, env) == []


def test_what_is_held_can_be_dropped_and_what_waits_is_not(
    here: Here, env: dict[str, str], engine: Engine, held: list[int]
) -> None:
    add(engine, 1, prefix="waiting")
    assert here("jobs", "drop", "--held", env=env).out == "dropped 3\n"
    assert tokens(here, env) == [4]


# Drop


@pytest.mark.slow
def test_a_job_that_is_dropped_is_cancelled_and_never_mailed(
    here: Here, ses: Simulator, env: dict[str, str], engine: Engine
) -> None:
    add(engine, 3)
    execute(engine, "UPDATE jobs SET due_at = 'infinity' WHERE token = 2")
    assert here("jobs", "drop", "1", "2", env=env).out == "dropped 2\n"
    assert here("sweep", env=env).code == 0
    assert ses.ledger.counts().mails == 1
    dropped = listed(here, env, "--code", "Dropped")
    assert [(row["token"], row["account"], row["outcome"]) for row in dropped] == [
        (2, 2, "cancelled"),
        (1, 1, "cancelled"),
    ]


def test_what_is_in_flight_or_over_is_not_dropped(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 1)
    execute(engine, CLAIM)
    ended = here("jobs", "drop", "1", "--json", env=env)
    assert (ended.code, json.loads(ended.out)) == (1, {"dropped": [], "left": {"1": "in flight"}})


def test_no_more_are_changed_than_the_limit(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 4)
    execute(engine, "UPDATE jobs SET due_at = 'infinity' WHERE token = 4")
    assert here("jobs", "drop", "1", "2", "3", "--limit", "1", env=env).out == "dropped 1\n"
    assert here("jobs", "retry", "2", "3", "--limit", "1", env=env).out == "put back 0, made due 1\n"
    assert here("jobs", "drop", "2", "4", "--held", "--limit", "1", env=env).out == "dropped 1\n"
    assert tokens(here, env) == [2, 3]


def test_what_a_terminal_would_obey_is_shown_as_its_escape(here: Here, env: dict[str, str], engine: Engine) -> None:
    execute(engine, "INSERT INTO accounts (email, login) VALUES ('ada@example.com', U&'a\\202Eb')")
    execute(engine, "UPDATE jobs SET queue = E'\\x1b[2Jq'")
    for command in (["jobs", "list", "--show-addresses"], ["status"]):
        out = here(*command, env=env).out
        assert "\\x1b[2Jq" in out
        assert "\x1b" not in out
        assert "\u202e" not in out


def test_what_is_not_utf_8_is_refused_in_one_line(here: Here, env: dict[str, str]) -> None:
    here("jobs", "list", "--queue", "\udcff", env=env).assert_one_line(2, "not UTF-8")


def test_a_whole_queue_can_be_dropped(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 1200)
    add(engine, 1, prefix="kept")
    execute(engine, "UPDATE jobs SET queue = 'news' WHERE token <= 1200")
    assert here("jobs", "drop", "--queue", "news", env=env).out == "dropped 1,200\n"
    assert tokens(here, env) == [1201]
    assert here("jobs", "retry", "--code", "Dropped", env=env).out == "put back 1,200, made due 0\n"


@pytest.mark.parametrize("what", ["drop --queue mailroom", "retry --queue mailroom", "retry --outcome failed"])
def test_of_much_that_is_chosen_by_options_no_more_is_read_than_is_changed(
    here: Here, env: dict[str, str], engine: Engine, what: str
) -> None:
    """As `list` does it: a queue or a record of millions would not fit into memory, nor into statement_timeout."""
    add(engine, 6_000)
    if "failed" in what:
        failed = SENT.replace("'sent'", "'failed'")
        execute(engine, failed, "DELETE FROM jobs")
    table = "deliveries" if "failed" in what else "jobs"
    before = rows_read(engine, table)
    ended = here("jobs", *what.split(), "--limit", "10", env=env)
    assert (ended.code, re.findall(r"\b10\b", ended.out)) == (0, ["10"]), ended
    with engine.connect() as connection:
        eventually(lambda: not rows(connection, OTHERS), "its session has ended, and said what it read")
    assert rows_read(engine, table) - before < 3_000


def rows_read(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(
            connection.scalar(
                text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_all_tables WHERE relid = CAST(:t AS regclass)"),
                {"t": table},
            )
            or 0
        )


@pytest.mark.parametrize(("what", "done"), [("drop", "dropped"), ("retry", "put back 0, made due")])
def test_what_was_done_before_the_database_failed_is_told(
    here: Here, env: dict[str, str], engine: Engine, what: str, done: str
) -> None:
    add(engine, 1_200)
    raising = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'enough'; END $$"
    late = "CREATE TRIGGER refuse BEFORE DELETE OR UPDATE ON jobs FOR EACH ROW WHEN (OLD.token > 1000)"
    execute(engine, raising, f"{late} EXECUTE FUNCTION refuse()")
    ended = here("jobs", what, "--queue", "mailroom", env=env)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, f"{done} 1,000\n", 1)
    for words in ("the database failed: enough", "1,000 jobs were changed before"):
        assert words in ended.err


def test_a_retry_of_several_is_not_stopped_by_one_that_failed_twice_or_has_a_job(engine: Engine) -> None:
    with engine.connect() as connection:
        twice, there, plain = enqueue(connection, 3)
        connection.execute(text("DELETE FROM jobs"))
        for token in (twice, twice, there, plain):
            connection.execute(
                text(
                    "INSERT INTO deliveries (token, action, outcome, attempt)"
                    " VALUES (:token, 'activation', 'failed', 6)"
                ),
                {"token": token},
            )
        put = "INSERT INTO jobs (token, due_at, action, priority, queue) VALUES (:token, now(), 'activation', 1, 'm')"
        connection.execute(text(put), {"token": there})
        retried = functions.call(connection, "job_retry", {"tokens": [twice, there, plain], "queue": "mailroom"}).all()
        assert {row.token for row in retried} == {twice, there, plain}
        assert misplaced(connection) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--since", "999999d"),
        ("--until", "999999d"),
        ("--code", ""),
        ("--since", "2026-03-01T12:30+20:00"),
        ("--until", "2026-03-01T12:30:00-23:59:59.999999"),
        ("--since", "0001-01-01", "--until", "9999-12-31T23:59:59.999999"),
    ],
)
def test_any_period_and_any_code_can_be_asked_for(here: Here, url: str, arguments: tuple[str, ...]) -> None:
    ended = here("jobs", "list", *arguments, env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.err) == (0, "")


def test_a_long_record_can_be_asked_for_as_far_back_as_there_are_times(here: Here, url: str, engine: Engine) -> None:
    add(engine, 1_100)
    execute(engine, SENT, "DELETE FROM jobs")
    options = ("--outcome", "failed", "--since", "0001-01-01")
    ended = here("jobs", "list", *options, env={"MAILROOM_DATABASE_URL": url})
    assert (ended.code, ended.out, ended.err) == (0, "no jobs\n", "")


@pytest.mark.parametrize("time", ["0001-01-01T00:00+23:59", "9999-12-31T23:59-00:01", "2026-03-01T25:00", "now"])
def test_a_time_that_there_is_not_is_refused(here: Here, url: str, time: str) -> None:
    ended = here("jobs", "list", "--since", time, env={"MAILROOM_DATABASE_URL": url})
    ended.assert_one_line(2, f"'{time}' is not a time")


@pytest.mark.slow
def test_what_is_locked_is_not_waited_for_without_a_word(
    here: Here, url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroom.cli.job_options.ANSWER_WITHIN", timedelta(seconds=1))
    env = {"MAILROOM_DATABASE_URL": url}
    with engine.connect() as connection:
        first, *_ = enqueue(connection, 2)
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as holder:
        holder.execute(text("SELECT FROM jobs WHERE token = :token FOR UPDATE"), {"token": first})
        here("jobs", "drop", str(first), env=env).assert_one_line(1, "it was cancelled: is it locked?")
        holder.execute(text("LOCK TABLE jobs"))
        here("jobs", "list", env=env).assert_one_line(1, "it was cancelled: is it locked?")
    assert here("jobs", "drop", str(first), env=env).out == "dropped 1\n"


@contextmanager
def statements(seen: list[str]) -> Iterator[None]:
    """Take note of all statements of this process."""

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "done"), [("drop", "dropped"), ("retry", "put back 0, made due"), ("release", "released")]
)
def test_what_somebody_has_locked_is_passed_over_and_told(
    here: Here, env: dict[str, str], engine: Engine, monkeypatch: pytest.MonkeyPatch, what: str, done: str
) -> None:
    """And waited for no longer than one statement may wait, however many there are."""
    monkeypatch.setattr("mailroom.cli.job_options.ANSWER_WITHIN", timedelta(seconds=1))
    add(engine, 1_200)
    if what == "release":
        execute(engine, "UPDATE jobs SET due_at = 'infinity'")
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as holder:
        holder.execute(text("SELECT FROM jobs WHERE token IN (5, 6, 1100) FOR UPDATE"))
        calls: list[str] = []
        with statements(calls):
            ended = here("jobs", what, "--queue", "mailroom", env=env)
    assert (ended.code, ended.out) == (1, f"{done} 1,197\n")
    locked = ", ".join(f"{token} (locked by somebody)" for token in (5, 6, 1100))
    assert ended.err == f"mailroom: left as they are: {locked}\n"
    assert sum(f"job_{what}" in call for call in calls) == 3, "two steps, and a wait for the first that is locked"


@pytest.mark.slow
def test_one_that_is_locked_and_left_over_for_a_step_of_its_own_is_passed_over_too(
    here: Here, env: dict[str, str], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroom.cli.job_options.ANSWER_WITHIN", timedelta(seconds=1))
    add(engine, 1_001)
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as holder:
        holder.execute(text("SELECT FROM jobs WHERE token = 1001 FOR UPDATE"))
        ended = here("jobs", "drop", "--queue", "mailroom", env=env)
    assert (ended.code, ended.out) == (1, "dropped 1,000\n")
    assert ended.err == "mailroom: left as they are: 1001 (locked by somebody)\n"


@pytest.mark.slow
def test_a_finished_job_whose_record_somebody_has_locked_is_passed_over_and_told(
    here: Here, env: dict[str, str], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailroom.cli.job_options.ANSWER_WITHIN", timedelta(seconds=1))
    add(engine, 20)
    execute(engine, SENT.replace("'sent'", "'failed'"), "DELETE FROM jobs")
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as holder:
        holder.execute(text("SELECT FROM deliveries WHERE token = 7 FOR UPDATE"))
        ended = here("jobs", "retry", "--outcome", "failed", "--json", env=env)
    told = json.loads(ended.out)
    assert (ended.code, len(told["put_back"]), told["left"]) == (1, 19, {"7": "locked by somebody"})


def test_what_is_locked_for_a_moment_is_changed_all_the_same(here: Here, env: dict[str, str], engine: Engine) -> None:
    add(engine, 20)

    def let_go() -> None:
        with engine.connect() as looking:
            eventually(lambda: count(looking, "pg_locks WHERE NOT granted"), "it is waited for")
        holder.rollback()

    with engine.connect().execution_options(isolation_level="READ COMMITTED") as holder:
        holder.execute(text("SELECT FROM jobs WHERE token IN (5, 6) FOR UPDATE"))
        thread = threading.Thread(target=let_go)
        thread.start()
        ended = here("jobs", "drop", "--queue", "mailroom", env=env)
        thread.join()
    assert (ended.code, ended.out, ended.err) == (0, "dropped 20\n", "")
