"""What enqueuing costs the application: its inserts with mailroom's triggers, against the same rows written by hand."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import psycopg

from mailroom.demo.postgres import wheel_binaries
from tests.benchmarks import rows
from tests.benchmarks.contenders import MAILROOM, how
from tests.benchmarks.grid import Aim, Grid
from tests.benchmarks.machine import Server
from tests.benchmarks.trial import Size, Trial

TITLE = "Enqueue"
ABOUT = """Accounts a second, inserted row by row by pgbench (prepared statements, a commit each) from 1 and 8
sessions, and many in one statement. `by hand`: one statement inserts the same rows into accounts, tokens and jobs,
without triggers. `accounts alone`: no token and no job. `row triggers`: FOR EACH ROW triggers make a token and a
notification for each row, as in the design that mailroom replaces, without jobs. Without a worker, the inserted
jobs keep the queue busy, and mailroom's triggers need not notify. `worker`: a worker listens and drains meanwhile,
on the same cores, and often finds the queue empty. `recoveries` always notify, and so show the price of a commit
that notifies. `slow disk`: with `commit_delay=2000 commit_siblings=0` each flush takes 2 ms longer."""
BY_ROW: Final = "Row by row, rows/s"
AT_ONCE: Final = "In one statement, accounts/s"

_ACCOUNT: Final = "INSERT INTO accounts (email, login) SELECT n || '@example.com', n FROM gen_random_uuid() AS n"
_BY_HAND: Final = """
WITH account AS (
    INSERT INTO accounts (email, login) SELECT n || '@example.com', n FROM gen_random_uuid() AS n RETURNING id, email
),
token AS (
    INSERT INTO tokens (action, account, expires_at, address_hash)
    SELECT 'activation', id, now() + interval '1 day', token_address_hash(email) FROM account RETURNING id
)
INSERT INTO jobs (token, due_at, action, priority, queue) SELECT id, now(), 'activation', 1, 'mailroom' FROM token
"""
_RECOVERY: Final = "INSERT INTO tokens (action, account) VALUES ('password_recovery', 1 + (random() * 9999)::int)"
_NO_TRIGGERS: Final = ("ALTER TABLE accounts DISABLE TRIGGER USER", "ALTER TABLE tokens DISABLE TRIGGER USER")
_ROW_TRIGGERS: Final = (
    *_NO_TRIGGERS,
    "CREATE FUNCTION row_token() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO tokens (action, account, expires_at, address_hash)"
    " VALUES ('activation', NEW.id, now() + interval '1 day', token_address_hash(NEW.email)); RETURN NULL; END $$",
    "CREATE FUNCTION row_notify() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_notify('token_insert', NEW.id::text); RETURN NULL; END $$",
    "CREATE TRIGGER row_token AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION row_token()",
    "CREATE TRIGGER row_notify AFTER INSERT ON tokens FOR EACH ROW EXECUTE FUNCTION row_notify()",
)
_MANY: Final = (
    "INSERT INTO accounts (email, login) SELECT 'many' || n || '@example.com', 'many' || n"
    " FROM generate_series(1, {count}) AS n"
)
# The rows that the triggers would make, by one statement a table: the quickest way there is.
_MANY_BY_HAND: Final = (
    _MANY,
    "INSERT INTO tokens (action, account, expires_at, address_hash)"
    " SELECT 'activation', id, now() + interval '1 day', token_address_hash(email) FROM accounts"
    " WHERE login LIKE 'many%'",
    "INSERT INTO jobs (token, due_at, action, priority, queue) SELECT id, now(), action, 2, 'mailroom' FROM tokens",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a session inserts, what was done to its database before, and what is set for the session."""

    insert: str
    before: tuple[str, ...] = ()
    options: str = ""
    worker: bool = False


_KINDS: Final[dict[str, _Kind]] = {
    "triggers": _Kind(_ACCOUNT),
    "triggers, NOTIFY off": _Kind(_ACCOUNT, options="-c mailroom.notify=off"),
    "triggers, worker": _Kind(_ACCOUNT, worker=True),
    "triggers, worker, NOTIFY off": _Kind(_ACCOUNT, options="-c mailroom.notify=off", worker=True),
    "by hand": _Kind(_BY_HAND, before=_NO_TRIGGERS),
    "accounts alone": _Kind(_ACCOUNT, before=_NO_TRIGGERS),
    "row triggers": _Kind(_ACCOUNT, before=_ROW_TRIGGERS),
    "recoveries": _Kind(_RECOVERY),
}
_SLOW_DISK: Final = "-c commit_delay=2000 -c commit_siblings=0"


def _row(kind: str, sessions: int, *, slow: bool = False) -> str:
    return f"{kind}, {sessions} session{'s' if sessions > 1 else ''}{', slow disk' if slow else ''}"


def measure(trial: Trial) -> list[Grid]:
    """Row by row in every way, and all in one statement, in turn."""
    by_row, at_once = Grid(BY_ROW), Grid(AT_ONCE)
    seconds = trial.pick(tiny=1, bench=2, full=10)
    count = trial.pick(tiny=2_000, bench=100_000, full=1_000_000)
    with Server() as server:
        ways: dict[str, Callable[[], None]] = {}
        for kind in _KINDS:
            for sessions in (1, 8):
                for slow in _disks(trial, sessions):
                    name = _row(kind, sessions, slow=slow)
                    ways[name] = partial(_insert_by_row, by_row, server, kind, sessions, slow, seconds)
            if kind != "recoveries" and not _KINDS[kind].worker:
                ways[f"{kind}, {count:,} at once"] = partial(_insert_at_once, at_once, server, kind, count)
        trial.interleave(ways)
    return [by_row, at_once]


def _disks(trial: Trial, sessions: int) -> tuple[bool, ...]:
    """Whether the disk is slow: in minutes, one session that waits for its own flushes is not worth the time."""
    return (False,) if trial.size is Size.BENCH and sessions == 1 else (False, True)


def _prepare(kind: str, url: str) -> None:
    """Start with 10,000 accounts: a foreign key's plan that is made on an empty table is kept, and slow later."""
    rows.migrated(url)
    rows.add_active_accounts(url, 10_000)
    with psycopg.connect(url) as connection:
        for sql in _KINDS[kind].before:
            connection.execute(sql.encode())


def _insert_by_row(grid: Grid, server: Server, kind: str, sessions: int, slow: bool, seconds: int) -> None:
    options = f"{_KINDS[kind].options} {_SLOW_DISK if slow else ''}"
    with (
        server.copy(kind, partial(_prepare, kind)) as database,
        tempfile.NamedTemporaryFile("w", suffix=".sql") as script,
        contextlib.ExitStack() as stack,
    ):
        if _KINDS[kind].worker:
            stack.enter_context(MAILROOM.worker(server.url(database), how(50))).go()
        script.write(" ".join(_KINDS[kind].insert.split()) + ";\n")
        script.flush()
        load = ["-n", "-M", "prepared", "-c", str(sessions), "-j", "2", "-T", str(seconds), "-f", script.name]
        done = subprocess.run(
            [wheel_binaries() / "pgbench", *load, server.postgres.url(database)],
            env=os.environ | {"PGOPTIONS": options},
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    grid.put(_row(kind, sessions, slow=slow), {"rows/s": float(found[1])})


def _insert_at_once(grid: Grid, server: Server, kind: str, count: int) -> None:
    statements = _MANY_BY_HAND if kind == "by hand" else (_MANY,)
    with (
        server.copy(kind, partial(_prepare, kind)) as database,
        psycopg.connect(server.url(database), options=_KINDS[kind].options) as connection,
    ):
        server.run(database, "CHECKPOINT")
        began = time.perf_counter()
        with connection.transaction():
            for sql in statements:
                connection.execute(sql.format(count=count).encode())
        grid.put(kind, {"accounts": count, "accounts/s": count / (time.perf_counter() - began)})


def aims(grids: Mapping[str, Grid]) -> list[Aim]:
    """The triggers against the same rows by hand, and with NOTIFY against without."""
    by_row, at_once = grids.get(BY_ROW, Grid(BY_ROW)), grids.get(AT_ONCE, Grid(AT_ONCE))
    one_statement = at_once.ratio("triggers", "by hand", "accounts/s")
    return [
        *(_against_hand(by_row, sessions, slow) for sessions in (1, 8) for slow in (False, True)),
        Aim("enqueue by triggers against by hand: one statement", one_statement, 0.7),
        *(_against_silence(by_row, kind, slow) for kind in ("triggers", "triggers, worker") for slow in (False, True)),
    ]


def _against_hand(grid: Grid, sessions: int, slow: bool) -> Aim:
    ours, by_hand = (_row(kind, sessions, slow=slow) for kind in ("triggers", "by hand"))
    what = _row("row by row", sessions, slow=slow)
    return Aim(f"enqueue by triggers against by hand: {what}", grid.ratio(ours, by_hand, "rows/s"), 0.7)


def _against_silence(grid: Grid, kind: str, slow: bool) -> Aim:
    ours, silent = (_row(each, 8, slow=slow) for each in (kind, f"{kind}, NOTIFY off"))
    what = f"enqueue with NOTIFY against without: {ours}"
    return Aim(what, grid.ratio(ours, silent, "rows/s"), 0.8)
