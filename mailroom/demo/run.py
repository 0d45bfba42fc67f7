"""The whole path on one machine with nothing installed: PostgreSQL from a wheel, the SES simulator, a real worker."""

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, TextClause, func, insert, select, text

from mailroom import tokens
from mailroom.db.engine import connect_engine
from mailroom.db.schema import accounts
from mailroom.demo.child import Guarded
from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.errors import MailroomError
from mailroom.signals import Stop
from mailroom.simulator import Mail, Simulator, state

RECOVERIES: Final = 3
BOUNCES: Final = "bounce@simulator.example"  # the simulator has no such mailbox
PATIENCE_SECONDS: Final = 60
CONFIGURATION_SET: Final = "demo"
# What an application does.
REQUEST: Final = text("SELECT mailroom.request_mail('password_recovery', account => :account)")

AGAIN: Final = text(
    "SELECT mailroom.request_mail('activation', account => id) FROM mailroom.accounts WHERE email = :address"
)
SUPPRESSED: Final = text("SELECT count(*) FROM mailroom.suppressions WHERE reason = 'bounce'")
OUTCOME: Final = text(
    "SELECT outcome || ', ' || error_code FROM mailroom.deliveries WHERE token = :token AND outcome = 'suppressed'"
)

STOPPED: Final = MailroomError("the demo was stopped")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo runs on. `say` takes the lines a person reads; `stopped` is set when it is to end early."""

    engine: Engine
    simulator: Simulator
    worker: Guarded
    key: bytes
    say: Say
    stopped: Stop

    def run(self, count: int) -> bool:
        """Insert accounts, follow some links, ask for recoveries; show the mails leave. False if one did not arrive."""
        self.say("")
        self.say(f"{count} accounts sign up, in one INSERT:")
        began = time.monotonic()
        with self.engine.begin() as connection:
            people = [{"email": f"user{n}@example.com", "login": f"user{n}"} for n in range(1, count + 1)]
            connection.execute(insert(accounts), people)
        arrived = self._show(count)
        seconds = time.monotonic() - began
        activated = self._follow_links(RECOVERIES)
        self.say("")
        self.say(f"{len(activated)} follow their links, and forget their passwords at once:")
        with self.engine.begin() as connection:
            for account in activated:
                connection.execute(REQUEST, {"account": account})
        arrived += self._show(len(activated), already=arrived)
        arrived += self._bounce(already=arrived)
        self._summarise(count, len(activated), seconds)
        return arrived == count + len(activated) + 1 == count + min(count, RECOVERIES) + 1

    def _bounce(self, *, already: int) -> int:
        """Let somebody sign up whose address nobody has, and show what SES says of the mail. Returns how many left."""
        self.say("")
        self.say("one signs up with an address that does not exist:")
        with self.engine.begin() as connection:
            connection.execute(insert(accounts), [{"email": BOUNCES, "login": "nobody"}])
        arrived = self._show(1, already=already)
        for mail in self.simulator.ledger.newest(arrived):
            self.say(f"  {mail.recipients[0]:<24} {state(self.simulator.ledger.story(mail.message_id))}")
        self._ask_again()
        return arrived

    def _ask_again(self) -> None:
        """Ask for another mail to the address that bounced, once SES has told of that, and show what becomes of it."""
        if not self._eventually(SUPPRESSED, {}):
            return
        with self.engine.begin() as connection:
            token = connection.scalar(AGAIN, {"address": BOUNCES})
        self.say("SES has told of it, and another mail to it is asked for:")
        if outcome := self._eventually(OUTCOME, {"token": token}):
            self.say(f"  {BOUNCES:<24} {outcome}")

    def _eventually(self, question: TextClause, given: Mapping[str, object]) -> object:
        """Ask the database until there is an answer; None once patience is over."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.worker.is_running():
            with self.engine.connect() as connection:
                if answer := connection.scalar(question, given):
                    return answer
            if self.stopped.wait(0.02):
                raise STOPPED
        return None

    def _show(self, expected: int, *, already: int = 0) -> int:
        """Say each mail as it leaves; return how many of the expected did, once all have or patience is over."""
        shown = 0
        for mail in self._arrivals(already, expected):
            shown += 1
            self.say(f"  {mail.recipients[0]:<24} {mail.subject}")
        return shown

    def _arrivals(self, already: int, expected: int) -> Iterator[Mail]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        seen = already
        while seen < already + expected and time.monotonic() < deadline and self.worker.is_running():
            mails = list(self.simulator.ledger.mails)
            yield from mails[seen:]
            seen = len(mails)
            if self.stopped.wait(0.02):
                raise STOPPED

    def _follow_links(self, count: int) -> Sequence[int]:
        """Do what a person does who clicks: hand the link's token back. Returns the accounts."""
        links = [mail.variables["secret"] for mail in list(self.simulator.ledger.mails)[:count]]
        with self.engine.begin() as connection:
            return [tokens.consume(connection, link, action="activation", key=self.key).id for link in links]

    def _summarise(self, activations: int, recoveries: int, seconds: float) -> None:
        counts = self.simulator.ledger.counts()
        with self.engine.connect() as connection:
            active = connection.scalar(select(func.count()).where(accounts.c.status == "active"))
        self.say("")
        self.say(f"{activations} activation mails in {seconds:.1f} s, {recoveries} recovery mails")
        self.say(f"accounts active: {active}")
        self.say(f"requests to SES: {counts.requests}, mails accepted: {counts.mails}, sent twice: {counts.duplicates}")


def worker_environment(database_url: str, simulator: Simulator, key: bytes) -> Mapping[str, str]:
    """The environment of the demo's worker: no AWS credentials that are real, and no way to SES but our own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "MAILROOM_")) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "MAILROOM_DATABASE_URL": database_url,
        "MAILROOM_SECRET_KEY": key.hex(),
        "MAILROOM_EVENTS_QUEUE_URL": simulator.events_queue_url,
        "AWS_ENDPOINT_URL_SESV2": simulator.url,
        "AWS_ENDPOINT_URL_SQS": simulator.url,
        "MAILROOM_SES_CONFIG_SET": CONFIGURATION_SET,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextlib.contextmanager
def _no_other_postgres() -> Iterator[None]:
    """Take away what libpq reads besides a URL (PGSSLMODE, PGSERVICE, …): it is meant for other servers than ours."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def running_worker(environment: Mapping[str, str]) -> Iterator[Guarded]:
    """Run `mailroom worker` beside us; its log goes where ours goes."""
    command = [sys.executable, "-m", "mailroom", "worker", "--concurrency", "2"]
    worker = Guarded(command, orphaned="TERM", environment=environment)
    try:
        yield worker
    finally:
        if worker.stop("TERM", seconds=PATIENCE_SECONDS) != 0:
            raise MailroomError("the demo's worker failed; its log is above")


@contextlib.contextmanager
def everything(port: int, migrate: Callable[[str], object], say: Say, stopped: Stop) -> Iterator[Demo]:
    """Start PostgreSQL, migrate it, start the simulator and a worker; stop them all in the end.

    Once it is `stopped`, each step is the last; none takes longer than seconds. Raises MailroomError then.
    """
    say("starting PostgreSQL 18 from its wheel")
    with _no_other_postgres(), EmbeddedPostgres() as postgres, Simulator(port=port) as simulator:
        simulator.configuration_sets.create(CONFIGURATION_SET, events=True)
        _go_on(stopped)
        say("migrating the database")
        migrate(postgres.url())
        _go_on(stopped)
        key = secrets.token_bytes(tokens.SECRET_BYTES)
        say(f"starting the SES simulator; the inbox is at {simulator.url}/")
        say("starting `mailroom worker --concurrency 2`; its log is mixed in below")
        with running_worker(worker_environment(postgres.url(), simulator, key)) as worker:
            engine = connect_engine(postgres.url(), pool_size=2, isolation_level="READ COMMITTED")
            try:
                yield Demo(engine, simulator, worker, key, say, stopped)
            finally:
                engine.dispose()


def _go_on(stopped: Stop) -> None:
    if stopped.is_set():
        raise STOPPED
