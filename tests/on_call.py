"""Ten faults, one after another, as who is on call would see them: `make on-call`.

A worker and `mailroom window` as an operator runs them, a recovery four times a second, and the first sentence of the
page looked at as often. Of each fault: what the page said first, after how many seconds, and after how many it said
that mail leaves again.
"""

import argparse
import contextlib
import html
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from mailroom.demo.postgres import EmbeddedPostgres
from mailroom.simulator import Fault, Simulator
from tests.running import Process, Processes, eventually
from tests.servers import TESTS_PATH, migrate
from tests.window.client import Window

ACCOUNTS = 10_000
GAP_SECONDS = 0.25
# How long a fault may stay unseen, and how long it may take until all is well again.
PATIENCE_SECONDS = 300.0
_SENTENCE = re.compile(r'<h1 class="sentence (\w+)">(.*?)</h1>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """The first sentence of the page, how bad that is, and which tables of needs stand below it."""

    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one fault: what was said of it first and when, and when all was well again; None: not within the patience."""

    fault: str
    sentence: str
    seconds: float | None
    over: float | None


class Shift:
    """A fleet of one worker, the window on it, and somebody who asks for recoveries all the time."""

    def __init__(self, postgres: EmbeddedPostgres, simulator: Simulator, processes: Processes) -> None:
        self.postgres = postgres
        self.simulator = simulator
        self.processes = processes
        self.worker = self.start_worker()
        self.window = processes.start("window", "--port", "0", url=postgres.url(), simulator=simulator)
        eventually(lambda: self.window.says("the window is at"), "the window opens")
        found = re.search(r"http://\S+", self.window.log.read_text())
        assert found is not None
        self._page = Window(found[0])
        self._over = threading.Event()
        self._asking = threading.Thread(target=self._ask)

    def __enter__(self) -> "Shift":
        self._asking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._asking.join()

    def start_worker(self, **settings: str) -> Process:
        """Start a worker as the README does."""
        url, ses = self.postgres.url(), self.simulator
        return self.processes.worker("--concurrency", "4", url=url, simulator=ses, **settings)

    def mailroom(self, *arguments: str) -> None:
        """Run a command. One may fail: a pause may be over before somebody ends it."""
        self.processes.start(*arguments, url=self.postgres.url(), simulator=self.simulator).wait()

    def execute(self, statement: str) -> None:
        """Do something to the database."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def look(self) -> Said:
        """Return what the page says first, whatever its status."""
        page = self._page.ask().text
        found = _SENTENCE.search(page)
        assert found is not None, page
        return Said(found[1], html.unescape(re.sub(r"<[^>]+>", "", found[2])).strip())

    def await_said(self, fits: Callable[[Said], bool]) -> tuple[Said, float | None]:
        """Look until it fits; return that, and after how many seconds, or the last and None."""
        began = time.monotonic()
        while True:
            said, took = self.look(), time.monotonic() - began
            if fits(said):
                return said, took
            if took > PATIENCE_SECONDS:
                return said, None
            time.sleep(GAP_SECONDS)

    def _ask(self) -> None:
        """Ask for a recovery four times a second, of one account after another, whether there is a database or not."""
        account = 0
        while not self._over.wait(GAP_SECONDS):
            with contextlib.suppress(psycopg.Error):
                self.execute(f"SELECT mailroom.request_mail('password_recovery', {account % ACCOUNTS + 1})")
                account += 1


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault: how it begins and ends, and a word that the page has to say of it before all others."""

    name: str
    begin: Callable[[Shift], Any]
    end: Callable[[Shift], Any]
    word: str


def _fails(**fault: Any) -> Callable[[Shift], None]:
    return lambda shift: shift.simulator.faults.add(Fault(**{"times": None, **fault}))


def _hang(shift: Shift) -> None:
    for operation in ("SendEmail", "SendBulkEmail"):
        _fails(operation=operation, before="hang")(shift)


def _mend(*scopes: str) -> Callable[[Shift], None]:
    def mend(shift: Shift) -> None:
        shift.simulator.faults.clear()
        for scope in scopes:
            shift.mailroom("resume", scope)

    return mend


def _kill(shift: Shift) -> None:
    shift.worker.signal(signal.SIGKILL)


def _replace(shift: Shift) -> None:
    shift.worker.end()
    shift.worker = shift.start_worker()


def _restart(shift: Shift) -> None:
    shift.postgres.start()


def _use_up_the_quota(shift: Shift) -> None:
    account = shift.simulator.account
    account.max_24_hour_send = shift.simulator.ledger.counts().mails
    shift.execute("UPDATE mailroom.ses_account SET refresh_due_at = now()")


def _raise_the_quota(shift: Shift) -> None:
    shift.simulator.account.max_24_hour_send = 50_000
    shift.execute("UPDATE mailroom.ses_account SET refresh_due_at = now()")


TROUBLES = (
    Trouble("the only worker is killed", _kill, _replace, "worker"),
    Trouble("the only worker hangs (SIGSTOP)", lambda shift: shift.worker.signal(signal.SIGSTOP), _replace, "worker"),
    Trouble(
        "AWS suspends the account", _fails(error="AccountSuspendedException"), _mend("account"), "AccountSuspended"
    ),
    Trouble("the credentials end", _fails(error="ExpiredTokenException", status=403), _mend("account"), "ExpiredToken"),
    Trouble(
        "the template is gone",
        _fails(error="NotFoundException", message="Template passwordrecoveryv1 does not exist."),
        _mend("password_recovery"),
        "NotFoundException",
    ),
    Trouble(
        "somebody pauses recoveries",
        lambda shift: shift.mailroom("pause", "password_recovery", "--reason", "new template"),
        _mend("password_recovery"),
        "new template",
    ),
    Trouble("the day's quota is used up", _use_up_the_quota, _raise_the_quota, "quota"),
    Trouble("SES does not answer", _hang, _mend(), "SES does not answer"),
    Trouble("the database is down", lambda shift: shift.postgres.stop(), _restart, "database"),
    Trouble(
        "SES throttles every call",
        _fails(error="TooManyRequestsException", message="slow down"),
        _mend(),
        "TooManyRequestsException",
    ),
)


def run(troubles: tuple[Trouble, ...] = TROUBLES, *, tell: Callable[[Seen], None]) -> Iterator[Seen]:
    """Let one fault follow another."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(EmbeddedPostgres(settings={"search_path": TESTS_PATH, "fsync": "off"}))
        migrate(postgres.url())
        simulator = stack.enter_context(Simulator())
        simulator.configuration_sets.create("default")
        simulator.account.max_send_rate, simulator.account.max_24_hour_send = 14, 50_000
        processes = Processes(folder)
        stack.callback(processes.end)
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO mailroom.accounts (email, login, status)"
                " SELECT 'user' || n || '@example.com', 'user' || n, 'active' FROM generate_series(1, %s) AS n",
                [ACCOUNTS],
            )
        shift = stack.enter_context(Shift(postgres, simulator, processes))
        shift.await_said(lambda said: said.state == "fine")
        for trouble in troubles:
            trouble.begin(shift)
            said, seconds = shift.await_said(lambda said, word=trouble.word: word in said.sentence)  # type: ignore[misc]
            trouble.end(shift)
            _, over = shift.await_said(lambda said: said.state != "act")
            seen = Seen(trouble.name, said.sentence, seconds, over)
            tell(seen)
            yield seen


def _line(seen: Seen) -> str:
    shown = ["never" if value is None else f"{value:.0f} s" for value in (seen.seconds, seen.over)]
    return f"| {seen.fault} | {seen.sentence} | {' | '.join(shown)} |"


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m tests.on_call", description=__doc__).parse_args()
    print("| fault | what the page says first | after | well again after |\n| --- | --- | --- | --- |")
    seen = list(run(tell=lambda one: print(_line(one), flush=True)))
    sys.exit(any(one.seconds is None or one.over is None for one in seen))


if __name__ == "__main__":
    main()
