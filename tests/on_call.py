"""Ten faults, one after another, as who is on call would see them: `make on-call`.

A worker and `mailroom window` as an operator runs them, a recovery four times a second, and the first sentence of the
page looked at as often. Every sentence is kept that is another one than before, from the moment of the fault on. Of
each fault: what the page said first that it had not said before, when it named the fault, and when it needed nobody
any more. The table of docs/window.md is what this prints; all sentences go to standard error.
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
from dataclasses import dataclass, replace
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
# So long the page may take until it has nothing more to say of the fault before.
CALM_SECONDS = 90.0
HEAD = (
    "| fault | first new sentence | after | first sentence that names the fault | after | needs nobody after |\n"
    "| --- | --- | --- | --- | --- | --- |"
)
_SENTENCE = re.compile(r'<h1 class="sentence (\w+)">(.*?)</h1>', re.DOTALL)
# How many wait at the moment of a count, and every other figure: it may be another one each time.
_FIGURES = re.compile(
    r"nothing waits|nothing is due, and .*? for a later try|\d[\d,]* (?:bulk )?\w+ \w+ waits?\b"
    r"|\d[\d,.]*(?:%| ms| s| min| h| days)?(?: \d+ min)?(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Said:
    """The first sentence of the page, how bad that is, and after how many seconds it stood there."""

    state: str
    sentence: str
    seconds: float = 0.0

    def is_as(self, other: "Said") -> bool:
        """Whether it says the same, but for how many and how long."""
        return (self.state, _FIGURES.sub("", self.sentence)) == (other.state, _FIGURES.sub("", other.sentence))


@dataclass(frozen=True, slots=True)
class Heard:
    """All that was said, each sentence once, until one was as it had to be: the last one, if it `fits`."""

    said: tuple[Said, ...]
    fits: bool

    @property
    def seconds(self) -> float | None:
        """After how many seconds it was as it had to be; None: not within the patience."""
        return self.said[-1].seconds if self.fits else None


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one fault: what the page said before, until it named the fault, and until it needed nobody any more."""

    fault: str
    before: Said
    named: Heard
    over: Heard

    @property
    def first(self) -> Said:
        """The first sentence that is another one than before."""
        return next((said for said in self.named.said if not said.is_as(self.before)), self.named.said[-1])

    @property
    def is_whole(self) -> bool:
        """Whether the fault was named, and its end too."""
        return self.named.fits and self.over.fits


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

    def hear(self, fits: Callable[[Said], bool], patience: float = PATIENCE_SECONDS) -> Heard:
        """Look until what is said fits, and keep each sentence that is another one than the one before it."""
        began, kept = time.monotonic(), list[Said]()
        while True:
            said = self.look()
            said = replace(said, seconds=time.monotonic() - began)
            if fits(said) or not kept or not said.is_as(kept[-1]):
                kept.append(said)
            if fits(said) or said.seconds > patience:
                return Heard(tuple(kept), fits(said))
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
        for trouble in troubles:
            seen = _try(shift, trouble)
            tell(seen)
            yield seen


def _try(shift: Shift, trouble: Trouble) -> Seen:
    """Let a fault happen once the page has nothing more to say of the one before, and mend it once it is named."""
    before = shift.hear(lambda said: said.state == "fine", CALM_SECONDS).said[-1]
    trouble.begin(shift)
    named = shift.hear(lambda said: trouble.word in said.sentence)
    trouble.end(shift)
    return Seen(trouble.name, before, named, shift.hear(lambda said: said.state != "act"))


def line(seen: Seen) -> str:
    """Return the line of the table."""
    first, named = seen.first, seen.named.said[-1]
    then = "the same" if first is named else f"{named.sentence}"
    told = (first.sentence, _after(first.seconds), then, _after(seen.named.seconds), _after(seen.over.seconds))
    return f"| {' | '.join((seen.fault, *told))} |"


def record(seen: Seen) -> str:
    """Return all that was said, a line each."""
    parts = (("before", (seen.before,)), ("fault", seen.named.said), ("mended", seen.over.said))
    told = (f"  {part} {said.seconds:4.0f} s {said.state}: {said.sentence}" for part, all_ in parts for said in all_)
    return "\n".join((f"{seen.fault}:", *told))


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} s"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.on_call", description=__doc__)
    parser.add_argument("faults", nargs="*", help="words of the names of the faults to try; by default all")
    words = parser.parse_args().faults
    chosen = tuple(each for each in TROUBLES if not words or any(word in each.name for word in words))

    def tell(seen: Seen) -> None:
        print(line(seen), flush=True)
        print(record(seen), file=sys.stderr, flush=True)

    print(HEAD, flush=True)
    seen = list(run(chosen, tell=tell))
    sys.exit(not all(each.is_whole for each in seen))


if __name__ == "__main__":
    main()
