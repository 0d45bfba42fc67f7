"""A storm: everything goes wrong at random, and then the books are checked. `make storm`; `--seed` replays one.

The seed decides what is done and in which order, and which calls SES fails; not how the processes interleave.
"""

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom import database
from mailroom.embedded import EmbeddedPostgres
from mailroom.simulator import Fault, Simulator
from tests import pgbouncer
from tests.conftest import migrate
from tests.proxy import HalfOpenProxy
from tests.running import Process, Processes, count, drained, eventually
from tests.world import MISPLACED, rows

WORKERS = 4
CALM_SECONDS = 240.0
# The shortest lease that the settings allow, so that frozen and killed workers cost as little time as they can.
SETTINGS = {
    "MAILROOM_LEASE": "28000",
    "MAILROOM_BATCH_LIMIT": "50",
    "MAILROOM_BATCH_TIMEOUT": "200",
    "MAILROOM_SWEEP_INTERVAL": "1000",
    "MAILROOM_HEALTHCHECK_INTERVAL": "3000",
    "MAILROOM_UNCONFIRMED_WAIT": "1000",
}

# Each of these happens to 1 % of the calls, so that together about a quarter of them goes wrong.
ERRORS = (
    "TooManyRequestsException",
    "LimitExceededException",
    "AccountSuspendedException",
    "SendingPausedException",
    "MailFromDomainNotVerifiedException",
    "NotFoundException",
    "BadRequestException",
    "MessageRejected",
    "InternalServiceErrorException",
    "AccessDeniedException",
    "ServiceUnavailable",
)
STATUSES = ("TRANSIENT_FAILURE", "FAILED", "ACCOUNT_THROTTLED", "MESSAGE_REJECTED", "TEMPLATE_NOT_FOUND", "OF_TOMORROW")


def faults() -> Iterator[Fault]:
    """Everything that the table of answers knows, and worse."""
    for name in ERRORS:
        yield Fault(error=name, times=None, probability=0.01)
    for place, status in enumerate(STATUSES):
        yield Fault(operation="SendBulkEmail", entries={place: status}, times=None, probability=0.01)
    for how in ("hang", "drop", "unended", "truncate", "error"):
        yield Fault(accept_then=how, times=None, probability=0.01)
    for before in ("hang", "drop"):
        yield Fault(before=before, times=None, probability=0.01)
    for results in ("short", "long", "empty"):
        yield Fault(operation="SendBulkEmail", results=results, times=None, probability=0.005)
    yield Fault(body="<html>", times=None, probability=0.005)
    yield Fault(latency_ms=500, times=None, probability=0.1)


@dataclass
class Storm:
    """The parts of a storm, and what it has seen."""

    postgres: EmbeddedPostgres
    pooler: pgbouncer.PgBouncer
    proxy: HalfOpenProxy
    simulator: Simulator
    processes: Processes
    engine: Engine
    chance: random.Random
    goal: int
    workers: list[Process] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    misplaced: list[object] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def start_worker(self) -> None:
        self.workers.append(
            self.processes.start(
                *("worker", "--concurrency", "4"),
                url=self.proxy.url,
                simulator=self.simulator,
                MAILROOM_LISTEN_DATABASE_URL=self.postgres.url(),
                **SETTINGS,
            )
        )

    def replace(self, worker: Process) -> None:
        self.workers.remove(worker)
        self.start_worker()

    def supervise(self) -> bool:
        """Start anew what has ended, as whoever runs workers does; return True, for whoever waits."""
        for worker in list(self.workers):
            if worker.popen.poll() is not None:
                self.events["ended"] += 1
                self.replace(worker)
        return True

    # What can happen

    def kill(self) -> None:
        victim = self.chance.choice(self.workers)
        victim.signal(signal.SIGKILL)
        self.replace(victim)

    def terminate(self) -> None:
        victim = self.chance.choice(self.workers)
        victim.signal(signal.SIGTERM)
        self.replace(victim)

    def freeze_worker(self) -> None:
        """Stop one past its lease; another takes its place, and both go on."""
        victim = self.chance.choice(self.workers)
        victim.signal(signal.SIGSTOP)
        self.replace(victim)
        threading.Timer(30, lambda: victim.signal(signal.SIGCONT)).start()
        threading.Timer(45, lambda: victim.signal(signal.SIGTERM)).start()

    def crash_database(self) -> None:
        self.postgres.stop("immediate")
        self.over.wait(1)
        self.postgres.start()

    def cut_backends(self) -> None:
        self._sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def restart_pooler(self) -> None:
        self.pooler.restart()

    def freeze_proxy(self) -> None:
        self.proxy.freeze()
        self.over.wait(3)
        self.proxy.thaw()

    def drop_proxy(self) -> None:
        self.proxy.drop()

    # What goes on meanwhile

    def sign_up(self, number: int) -> None:
        """Be an application: accounts in statements of all sizes, commits that wait, links followed, people leaving."""
        chance = random.Random(self.chance.random())
        made = 0
        while made < self.goal and not self.over.is_set():
            size = chance.choice((1, 1, 1, 5, 60, 200))
            with contextlib.suppress(DBAPIError), self.engine.connect() as connection, connection.begin():
                connection.execute(
                    text(
                        "INSERT INTO accounts (email, login)"
                        " SELECT :name || n || '@example.com', :name || n FROM generate_series(1, :size) AS n"
                    ),
                    {"name": f"c{number}-{made}-", "size": size},
                )
                self.over.wait(chance.choice((0, 0, 0.02, 0.5)))
                connection.execute(text(chance.choice(LIVES)))
            made += size
            self.over.wait(chance.random() * size / 20)

    def sample(self) -> None:
        """Look again and again whether every token is in exactly one place."""
        while not self.over.is_set():
            with contextlib.suppress(DBAPIError), self.engine.connect() as connection:
                self.misplaced += connection.execute(MISPLACED).all()
                self.samples += 1
            self.over.wait(0.5)

    def _sql(self, sql: str) -> None:
        with contextlib.suppress(DBAPIError), self.engine.connect() as connection:
            connection.execute(text(sql))


# What applications do in a transaction, to a few accounts at random.
LIVES = (
    "UPDATE tokens SET consumed_at = now() WHERE id IN (SELECT id FROM tokens"
    " WHERE action = 'activation' AND consumed_at IS NULL ORDER BY random() LIMIT 10)",
    "INSERT INTO tokens (action, account)"
    " SELECT 'password_recovery', id FROM accounts WHERE status = 'active' ORDER BY random() LIMIT 3",
    "UPDATE accounts SET status = 'suspended' WHERE id = (SELECT id FROM accounts ORDER BY random() LIMIT 1)",
    "UPDATE accounts SET status = 'active'"
    " WHERE id = (SELECT id FROM accounts WHERE status = 'suspended' ORDER BY random() LIMIT 1)",
    "DELETE FROM accounts WHERE id = (SELECT id FROM accounts ORDER BY random() LIMIT 1)",
)


@dataclass(frozen=True, slots=True)
class Books:
    """What the storm left behind."""

    tokens: int
    outcomes: dict[str, int]
    accepted: int
    lost: int
    twice: int
    twice_off_record: int
    unfinished: int
    unconfirmed: int
    misplaced: int
    samples: int
    events: dict[str, int]
    seconds: float

    @property
    def balance(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.twice_off_record or self.unfinished or self.misplaced)


def run(*, seed: int, seconds: float, goal: int, say: Callable[[str], None]) -> Books:
    """Let the storm blow for so long, let it calm down, and return the books."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(settings={"max_connections": "200"}))
        migrate(postgres.url())
        pooler = stack.enter_context(pgbouncer.PgBouncer(postgres))
        proxy = stack.enter_context(HalfOpenProxy(pooler.url(postgres.url())))
        simulator = stack.enter_context(Simulator(seed=seed))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = Processes(folder)
        stack.callback(processes.end)
        engine = database.connect_engine(postgres.url(), pool_size=10)
        stack.callback(engine.dispose)
        chance = random.Random(seed)
        storm = Storm(postgres, pooler, proxy, simulator, processes, engine, chance, goal // 4)
        simulator.faults.add(*faults())
        for _ in range(WORKERS):
            storm.start_worker()
        threads = [threading.Thread(target=storm.sign_up, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=storm.sample))
        for thread in threads:
            thread.start()
        _blow(storm, seconds, say)
        _calm(storm, threads, say)
        return _books(storm, time.monotonic() - began)


def _blow(storm: Storm, seconds: float, say: Callable[[str], None]) -> None:
    mishaps = (
        storm.kill,
        storm.terminate,
        storm.freeze_worker,
        storm.crash_database,
        storm.cut_backends,
        storm.restart_pooler,
        storm.freeze_proxy,
        storm.drop_proxy,
    )
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        storm.supervise()
        mishap = storm.chance.choice(mishaps)
        mishap()
        storm.events[mishap.__name__] += 1
        say(f"{left:4.0f} s left: {mishap.__name__}, {storm.simulator.ledger.counts().mails} mails")
        storm.over.wait(min(left, 2 + 3 * storm.chance.random()))


def _calm(storm: Storm, threads: list[threading.Thread], say: Callable[[str], None]) -> None:
    """End the faults and the inserts, and wait until all is done that can be done."""
    say("calm")
    storm.simulator.faults.clear()
    for thread in threads[:-1]:
        thread.join()
    with storm.engine.connect() as connection:
        eventually(lambda: storm.supervise() and drained(connection), "everything is over", seconds=CALM_SECONDS)
    storm.over.set()
    threads[-1].join()


def _books(storm: Storm, seconds: float) -> Books:
    accepted = {int(token): times for token, times in storm.simulator.ledger.sent_tokens().items()}
    with storm.engine.connect() as connection:
        outcomes = {
            row.outcome: row.count
            for row in rows(connection, "SELECT outcome, count(*) FROM deliveries WHERE NOT late GROUP BY 1 ORDER BY 1")
        }
        unconfirmed = {
            row.token for row in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'unconfirmed'")
        }
        sent = {row.token for row in rows(connection, "SELECT token FROM deliveries WHERE outcome = 'sent'")}
        final = "outcome NOT IN ('deferred', 'unconfirmed') AND NOT late"
        unfinished = count(
            connection, f"tokens WHERE NOT EXISTS (SELECT FROM deliveries WHERE token = tokens.id AND {final})"
        )
        misplaced = [*storm.misplaced, *connection.execute(MISPLACED).all()]
        tokens = count(connection, "(SELECT DISTINCT token FROM deliveries) AS t")
    twice = {token for token, times in accepted.items() if times > 1}
    return Books(
        tokens=tokens,
        outcomes=outcomes,
        accepted=sum(accepted.values()),
        lost=len(sent - accepted.keys()),
        twice=len(twice),
        twice_off_record=len(twice - unconfirmed),
        unfinished=unfinished,
        unconfirmed=len(unconfirmed),
        misplaced=len(misplaced),
        samples=storm.samples,
        events=dict(storm.events),
        seconds=seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--mails", type=int, default=50_000)
    given = parser.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    books = run(seed=given.seed, seconds=given.seconds, goal=given.mails, say=lambda words: print(words, flush=True))
    for name in Books.__slots__:
        sys.stdout.write(f"{name:<18} {getattr(books, name)}\n")
    sys.exit(not books.balance)


if __name__ == "__main__":
    main()
