"""A storm: everything goes wrong at random, and then the books are checked. `make storm`; `--seed` replays one.

With `--feed` the workers hear of what SES accepted, late, out of order, twice, and now and then not at all.

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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import connect_engine
from mailroom.queue.verdict import GRACE_HEARD
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.ledger import TOKEN_TAG
from tests import pgbouncer
from tests.clock import WrongClockPostgres
from tests.front import Front, certify
from tests.proxy import HalfOpenProxy
from tests.running import Process, Processes, eventually
from tests.servers import TESTS_PATH, migrate
from tests.world import MISPLACED, count, drained, rows

WORKERS = 4
CALM_SECONDS = 240.0
# The shortest lease that the settings allow, so that frozen and killed workers cost as little time as they can.
SETTINGS = {
    "MAILROOM_LEASE": "28000",
    "MAILROOM_BATCH_LIMIT": "50",
    "MAILROOM_BATCH_TIMEOUT": "200",
    "MAILROOM_SWEEP_INTERVAL": "1000",
    "MAILROOM_HEALTHCHECK_INTERVAL": "3000",
}
# Who hears nothing need not wait long. Who does waits as long as mailroom does by itself.
DEAF: dict[str, str] = {"MAILROOM_UNCONFIRMED_WAIT": "1000"}

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
# What SES answers to a key that it does not know any more.
KEY_ERRORS = ("UnrecognizedClientException", "ExpiredTokenException")
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


# How the events of a mail come, where they are heard at all.
HEARSAY = {"late_seconds": 1.0, "times": 2, "out_of_order": True, "lost": 0.05}

# So far the server's clock is put wrong: less than mailroom's own waits, and more than any of them.
CLOCK_STEPS = tuple(timedelta(seconds=seconds) for seconds in (-600, -40, 40, 600))
# Connections of the storm's own stay writable, whatever the server says of those that are made now.
SERVER = {"max_connections": "300", "search_path": TESTS_PATH}
WRITABLE = "-c default_transaction_read_only=off"


class Credentials:
    """The AWS credentials of all workers, in a file that whoever issues them writes anew from time to time."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "credentials"
        self.key = ""
        self._issued = 0
        self.renew()

    def renew(self) -> None:
        self._issued += 1
        self.key = f"AKIASTORM{self._issued}"
        written = self.file.with_suffix(".new")
        written.write_text(f"[default]\naws_access_key_id = {self.key}\naws_secret_access_key = secret\n")
        written.rename(self.file)


@dataclass
class Storm:
    """The parts of a storm, and what it has seen.

    `ways` lead to the database: the first through PgBouncer, the second straight.
    """

    postgres: WrongClockPostgres
    pooler: pgbouncer.PgBouncer
    ways: tuple[HalfOpenProxy, HalfOpenProxy]
    simulator: Simulator
    front: Front
    certificate: Path
    credentials: Credentials
    processes: Processes
    engine: Engine
    chance: random.Random
    goal: int
    workers: list[Process] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    misplaced: list[Row[Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    started: int = 0
    clock_is_wrong_by: timedelta = timedelta(0)
    leaps: list[datetime] = field(default_factory=list)
    feed: bool = False

    def hearing(self) -> dict[str, str]:
        """Return the settings of what the workers hear."""
        if not self.feed:
            return DEAF
        return {
            "MAILROOM_EVENTS_QUEUE_URL": self.simulator.events_queue_url,
            "AWS_ENDPOINT_URL_SQS": self.simulator.url,
        }

    def start_worker(self) -> None:
        way = self.ways[self.started % len(self.ways)]
        self.started += 1
        self.workers.append(
            self.processes.start(
                *("worker", "--concurrency", "4"),
                url=way.url,
                simulator=self.simulator,
                MAILROOM_LISTEN_DATABASE_URL=self.postgres.url(),
                AWS_ENDPOINT_URL_SESV2=self.front.url,
                AWS_CA_BUNDLE=str(self.certificate),
                AWS_SHARED_CREDENTIALS_FILE=str(self.credentials.file),
                AWS_ACCESS_KEY_ID="",  # or the file would not be read
                AWS_SECRET_ACCESS_KEY="",
                **SETTINGS,
                **self.hearing(),
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
        for way in self.ways:
            way.freeze()
        self.over.wait(3)
        for way in self.ways:
            way.thaw()

    def drop_proxy(self) -> None:
        for way in self.ways:
            way.drop()

    def step_clock(self) -> None:
        """Put the server's clock wrong by minutes; or right again, if it is wrong."""
        before = self.clock_is_wrong_by
        self.clock_is_wrong_by = timedelta(0) if before else self.chance.choice(CLOCK_STEPS)
        if self.clock_is_wrong_by > before:
            self.leaps.append(datetime.now(UTC))
        self.postgres.step(self.clock_is_wrong_by)

    def read_only_moment(self) -> None:
        """Lead everybody to a reader for some seconds, as a failover does. Who came meanwhile stays there.

        PgBouncer alone is told to leave: no worker behind it could.
        """
        self._surely("ALTER ROLE postgres SET default_transaction_read_only = on")
        self.cut_backends()
        self.over.wait(3)
        self._surely("ALTER ROLE postgres RESET default_transaction_read_only")
        self.pooler.restart()

    def renew_key(self) -> None:
        """Give the workers another key; a little later SES refuses the one before."""
        before, code = self.credentials.key, self.chance.choice(KEY_ERRORS)
        self.credentials.renew()
        threading.Timer(1, lambda: self.front.refuse(before, code=code)).start()

    def stall_handshake(self) -> None:
        """Let SES say nothing on new connections for some seconds: less than a call waits, or more."""
        self.front.stall()
        threading.Timer(self.chance.choice((4, 20)), self.front.resume).start()

    # What goes on meanwhile

    def sign_up(self, number: int, chance: random.Random) -> None:
        """Be an application: accounts in statements of all sizes, commits that wait, links followed, people leaving."""
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

    def is_drained(self) -> bool:
        with contextlib.suppress(DBAPIError), self.engine.connect() as connection:  # it may have been cut long ago
            return drained(connection)
        return False

    def _sql(self, sql: str) -> bool:
        with contextlib.suppress(DBAPIError), self.engine.connect() as connection:
            connection.execute(text(sql))
            return True
        return False

    def _surely(self, sql: str) -> None:
        eventually(lambda: self._sql(sql), sql)


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


UNFINISHED = """
    SELECT id FROM tokens
     WHERE NOT EXISTS (
           SELECT FROM deliveries
            WHERE token = tokens.id AND NOT late AND outcome NOT IN ('deferred', 'unconfirmed'))
"""

LIFE = (
    "SELECT * FROM tokens WHERE id = :mail",
    "SELECT * FROM jobs WHERE token = :mail",
    "SELECT * FROM batches WHERE :mail = ANY (tokens)",
    "SELECT * FROM deliveries WHERE token = :mail ORDER BY id",
)


@dataclass(frozen=True, slots=True)
class Books:
    """What the storm left behind."""

    tokens: int
    outcomes: dict[str, int]
    accepted: int
    lost: int
    twice: int
    twice_by_clock: int
    twice_off_record: int
    unfinished: int
    unconfirmed: int
    misplaced: int
    samples: int
    events: dict[str, int]
    seconds: float
    evidence: list[str]

    @property
    def balance(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.twice_off_record or self.unfinished or self.misplaced)


def run(*, seed: int, seconds: float, goal: int, say: Callable[[str], None], feed: bool = False) -> Books:
    """Let the storm blow for so long, let it calm down, and return the books."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(
            WrongClockPostgres(settings={"max_connections": "300", "search_path": TESTS_PATH})
        )
        migrate(postgres.url())
        pooler = stack.enter_context(pgbouncer.PgBouncer(postgres))
        pooled = stack.enter_context(HalfOpenProxy(pooler.url(postgres.url())))
        straight = stack.enter_context(HalfOpenProxy(postgres.url()))
        simulator = stack.enter_context(Simulator(seed=seed))
        certificate = certify(folder)
        front = stack.enter_context(Front(simulator.url, certificate))
        processes = Processes(folder)
        stack.callback(processes.end)
        engine = connect_engine(make_conninfo(postgres.url(), options=WRITABLE), pool_size=10)
        stack.callback(engine.dispose)
        storm = Storm(
            postgres,
            pooler,
            (pooled, straight),
            simulator,
            front,
            certificate,
            Credentials(folder),
            processes,
            engine,
            random.Random(seed),
            goal // 4,
            feed=feed,
        )
        simulator.configuration_sets.create("default", events=feed)
        for name, how in HEARSAY.items():
            setattr(simulator.feed, name, how)
        simulator.faults.add(*faults())
        for _ in range(WORKERS):
            storm.start_worker()
        threads = [
            threading.Thread(target=storm.sign_up, args=(number, random.Random(storm.chance.random())))
            for number in range(4)
        ]
        threads.append(threading.Thread(target=storm.sample))
        for thread in threads:
            thread.start()
        _blow(storm, seconds, say)
        _calm(storm, threads, say)
        return _books(storm, time.monotonic() - began)


def _blow(storm: Storm, seconds: float, say: Callable[[str], None]) -> None:
    """Let one thing happen after another for so long, and until each has happened."""
    ends = time.monotonic() + seconds
    for mishap in _mishaps(storm):
        storm.supervise()
        mishap()
        storm.events[mishap.__name__] += 1
        left = ends - time.monotonic()
        say(f"{left:4.0f} s left: {mishap.__name__}, {storm.simulator.ledger.counts().mails} mails")
        if left <= 0 and storm.events.keys() >= {each.__name__ for each in _all(storm)}:
            return
        storm.over.wait(2 + 3 * storm.chance.random())


def _mishaps(storm: Storm) -> Iterator[Callable[[], None]]:
    """Everything in one order, then everything in another, without end."""
    while True:
        mishaps = _all(storm)
        storm.chance.shuffle(mishaps)
        yield from mishaps


def _all(storm: Storm) -> list[Callable[[], None]]:
    return [
        storm.kill,
        storm.terminate,
        storm.freeze_worker,
        storm.crash_database,
        storm.cut_backends,
        storm.restart_pooler,
        storm.freeze_proxy,
        storm.drop_proxy,
        storm.step_clock,
        storm.step_clock,  # and back
        storm.read_only_moment,
        storm.renew_key,
        storm.stall_handshake,
    ]


def _calm(storm: Storm, threads: list[threading.Thread], say: Callable[[str], None]) -> None:
    """End the faults and the inserts, and wait until all is done that can be done."""
    say("calm")
    storm.simulator.faults.clear()
    if storm.clock_is_wrong_by:
        storm.step_clock()
    for thread in threads[:-1]:
        thread.join()
    eventually(lambda: storm.supervise() and storm.is_drained(), "everything is over", seconds=CALM_SECONDS)
    storm.over.set()
    threads[-1].join()
    storm.engine.dispose()  # of connections that were cut, and not used since


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
        # Of a token that was deleted in the meantime, what came late is on record without it: the message tells it.
        lost = {
            row.message_id if row.token is None else row.token
            for row in rows(connection, "SELECT token, message_id FROM deliveries WHERE outcome = 'sent'")
            if row.token not in accepted
            and (row.token is not None or storm.simulator.ledger.find(row.message_id) is None)
        }
        unfinished = {row.id for row in rows(connection, UNFINISHED)}
        misplaced = [*storm.misplaced, *connection.execute(MISPLACED).all()]
        tokens = count(connection, "(SELECT DISTINCT token FROM deliveries) AS t")
        twice = {token for token, times in accepted.items() if times > 1}
        faults = {
            "lost": lost,
            "twice off record": twice - unconfirmed,
            "unfinished": unfinished,
            "misplaced": {row.token for row in misplaced},
        }
        evidence = [
            f"{fault}: {mail}, accepted {accepted.get(mail, 0)} times, {life(connection, mail)}"
            for fault, mails in faults.items()
            for mail in sorted(mails, key=str)[:3]
        ]
    return Books(
        tokens=tokens,
        outcomes=outcomes,
        accepted=sum(accepted.values()),
        lost=len(faults["lost"]),
        twice=len(twice),
        twice_by_clock=len(_hurried(storm)),
        twice_off_record=len(faults["twice off record"]),
        unfinished=len(unfinished),
        unconfirmed=len(unconfirmed),
        misplaced=len(misplaced),
        samples=storm.samples,
        events=dict(storm.events),
        seconds=seconds,
        evidence=evidence,
    )


def _hurried(storm: Storm) -> set[str]:
    """Return the mails that were sent again without waiting for their events, since the clock leapt ahead meanwhile.

    The waits are by the clock of the database, and no statement can tell that it leapt.
    """
    accepted: defaultdict[str, list[datetime]] = defaultdict(list)
    for mail in storm.simulator.ledger.mails:
        accepted[mail.tags[TOKEN_TAG]].append(mail.accepted_at)
    return {
        token
        for token, moments in accepted.items()
        for leap in storm.leaps
        if any(leap - GRACE_HEARD < first < leap < second for first, second in pairwise(sorted(moments)))
    }


def life(connection: Connection, mail: int | str) -> list[dict[str, object]]:
    """All that is on record of a mail: its token, where it waits or flies, and each delivery; or of a message."""
    places = ("SELECT * FROM deliveries WHERE message_id = :mail",) if isinstance(mail, str) else LIFE
    return [dict(row._mapping) for place in places for row in rows(connection, place, mail=mail)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--mails", type=int, default=50_000)
    parser.add_argument("--feed", action="store_true", help="let the workers hear of what SES accepted")
    given = parser.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    books = run(
        seed=given.seed,
        seconds=given.seconds,
        goal=given.mails,
        say=lambda words: print(words, flush=True),
        feed=given.feed,
    )
    for name in Books.__slots__:
        sys.stdout.write(f"{name:<18} {getattr(books, name)}\n")
    sys.exit(not books.balance)


if __name__ == "__main__":
    main()
