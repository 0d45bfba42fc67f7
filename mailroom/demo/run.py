"""The whole path on one machine with nothing installed: PostgreSQL from a wheel, the SES simulator, a real worker."""

import contextlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, func, insert, select, text

from mailroom import tokens
from mailroom.db.engine import connect_engine
from mailroom.db.schema import accounts
from mailroom.demo.child import Guarded
from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.errors import MailroomError
from mailroom.simulator import Mail, Simulator

RECOVERIES: Final = 3
PATIENCE_SECONDS: Final = 60
# What an application does.
REQUEST: Final = text("SELECT mailroom.request_mail('password_recovery', account => :account)")

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
    stopped: threading.Event

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
        self._summarise(count, len(activated), seconds)
        return arrived == count + len(activated) == count + min(count, RECOVERIES)

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


def worker_environment(database_url: str, ses_url: str, key: bytes) -> Mapping[str, str]:
    """The environment of the demo's worker: only what it needs, and no AWS credentials that are real."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAILROOM_"))}
    return kept | {
        "MAILROOM_DATABASE_URL": database_url,
        "MAILROOM_SECRET_KEY": key.hex(),
        "AWS_ENDPOINT_URL_SESV2": ses_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


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
def everything(port: int, migrate: Callable[[str], object], say: Say, stopped: threading.Event) -> Iterator[Demo]:
    """Start PostgreSQL, migrate it, start the simulator and a worker; stop them all in the end.

    Once it is `stopped`, each step is the last; none takes longer than seconds. Raises MailroomError then.
    """
    say("starting PostgreSQL 18 from its wheel")
    with EmbeddedPostgres() as postgres, Simulator(port=port) as simulator:
        _go_on(stopped)
        say("migrating the database")
        migrate(postgres.url())
        _go_on(stopped)
        key = secrets.token_bytes(tokens.SECRET_BYTES)
        say(f"starting the SES simulator; the inbox is at {simulator.url}/")
        say("starting `mailroom worker --concurrency 2`; its log is mixed in below")
        with running_worker(worker_environment(postgres.url(), simulator.url, key)) as worker:
            engine = connect_engine(postgres.url(), pool_size=2, isolation_level="READ COMMITTED")
            try:
                yield Demo(engine, simulator, worker, key, say, stopped)
            finally:
                engine.dispose()


def _go_on(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise STOPPED
