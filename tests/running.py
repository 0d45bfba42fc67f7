"""Workers, in this process and as processes of their own, and waiting for what they do."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import Engine

from mailroom import ses
from mailroom.db.engine import connect_engine
from mailroom.fleet.permits import NO_LIMIT, Permits
from mailroom.job import Action
from mailroom.mail.transport import Mail, Transport
from mailroom.outcome import Answer, Outcome, Rejected, Sent
from mailroom.queue.limits import Limits
from mailroom.queue.listener import Listener
from mailroom.ses import classify
from mailroom.simulator import Simulator
from mailroom.worker.sender import Sender
from mailroom.worker.shared import Shared
from mailroom.worker.telemetry import NO_TELEMETRY, Telemetry
from mailroom.worker.vitals import Vitals
from mailroom.worker.worker import Worker
from tests.forked import start
from tests.world import KEY, KEY_HEX

PATIENCE_SECONDS = 60.0


def eventually(
    happens: Callable[[], Any], what: str = "what the test waits for", *, seconds: float = PATIENCE_SECONDS
) -> Any:
    """Wait until something is so, and return it; fail when it does not become so.

    What takes longer is asked for less often: whoever asks takes the time of those who are asked after.
    """
    began = time.monotonic()
    while not (found := happens()):
        waited = time.monotonic() - began
        if waited > seconds:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        threading.Event().wait(min(max(waited / 20, 0.01), 0.1))
    return found


def aws(simulator: Simulator) -> dict[str, str]:
    """The environment that makes boto3 talk to a simulator."""
    return {
        "AWS_ENDPOINT_URL_SESV2": simulator.url,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def transport(
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    *,
    read_timeout: float = 15,
    source: str = "noreply@example.com",
    config_set: str = "default",
) -> ses.SesTransport:
    """The real transport, to a simulator."""
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    client = ses.connect(region=None, connections=8, read_timeout=timedelta(seconds=read_timeout))
    return ses.SesTransport(client, source=source, config_set=config_set)


def limits(**changes: Any) -> Limits:
    """Limits for tests: no waiting for a batch to fill, unless that is asked for."""
    usual = Limits(queue="mailroom", batch_limit=10, batch_timeout=timedelta(0), lease=timedelta(seconds=30))
    return replace(usual, **changes)


def shared(
    engine: Engine,
    sends: Transport,
    *,
    permits: Permits = NO_LIMIT,
    clock: Callable[[], float] = time.monotonic,
    telemetry: Telemetry = NO_TELEMETRY,
    vitals: Vitals | None = None,
    **changes: Any,
) -> Shared:
    """What the senders of a process would share."""
    return Shared(
        engine,
        sends,
        key=KEY,
        limits=limits(**changes),
        permits=permits,
        clock=clock,
        telemetry=telemetry,
        vitals=vitals,
    )


def sender(engine: Engine, sends: Transport, **how: Any) -> Sender:
    """A sender that is worked by hand; `how` is for `shared`."""
    return Sender(shared(engine, sends, **how), name="test")


@contextlib.contextmanager
def connecting(url: str, **how: Any) -> Iterator[Engine]:
    """An engine of the test's own, whose connections are closed however the test goes; `how` is for the engine."""
    engine = connect_engine(url, **how)
    try:
        yield engine
    finally:
        engine.dispose()


@contextlib.contextmanager
def working(
    engine: Engine,
    sends: Transport,
    *,
    concurrency: int = 1,
    sweep_interval: float = 5,
    listen: str | None = None,
    healthcheck_interval: float = 270,
    **how: Any,
) -> Iterator[Worker]:
    """Run a worker in a thread; `listen` is the URL to LISTEN on, `how` is for `shared`. Stops it in the end."""
    worker = Worker(
        shared(engine, sends, **how), concurrency=concurrency, sweep_interval=timedelta(seconds=sweep_interval)
    )
    listener = listen and Listener(
        listen,
        "token_insert",
        healthcheck_interval=timedelta(seconds=healthcheck_interval),
        woken=worker.woken,
        ping=worker.ping,
    )
    thread = threading.Thread(target=worker.run, args=(listener or None,))
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the worker does not stop"


Answering = Callable[[Sequence[Mail]], Sequence[Answer]]


def accept(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Sent("m")] * len(mails)


def refuse(mails: Sequence[Mail]) -> Sequence[Outcome]:
    return [Rejected("MessageRejected", "no")] * len(mails)


class Scripted:
    """A transport that notes what it is handed, and answers as it is told: the last answer again and again.

    By its own `clock`, each call takes some time, and as much more as an answer adds to `spent` seconds.
    """

    max_call_time = timedelta(0)
    throttles = classify.THROTTLES
    keeps_apart = False

    def __init__(self, takes: timedelta = timedelta(0)) -> None:
        self.answers: list[Answering] = [accept]
        self.calls: list[tuple[Action, int]] = []
        self.mailed: list[int | None] = []
        self.spent = 0.0
        self._takes = takes

    def clock(self) -> float:
        return self.spent

    def unmailable(self, mail: Mail) -> Rejected | None:
        return None

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Answer]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.calls.append((action, len(mails)))
        self.spent += self._takes.total_seconds()
        outcomes = answer(mails)
        self.mailed += [mail.token for mail, outcome in zip(mails, outcomes, strict=True) if isinstance(outcome, Sent)]
        return outcomes


class Held:
    """A transport that SES answers, and whose answers nobody hears until they are `let_go`.

    A context: they are, at its end.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.max_call_time = transport.max_call_time
        self.throttles = transport.throttles
        self.keeps_apart = transport.keeps_apart
        self.answered, self.let_go = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()

    def unmailable(self, mail: Mail) -> Rejected | None:
        return self._transport.unmailable(mail)

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Answer]:
        answers = self._transport.send(action, mails, batch=batch)
        self.answered.set()
        self.let_go.wait()
        return answers


class Process:
    """A `mailroom` command as a process of its own, with its log in a file."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAILROOM_", "AWS_"))}
        with log.open("w") as out, open(os.devnull) as nothing:
            self.popen = start(arguments, kept | environment, (nothing, out, out), given=environment)

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def freeze(self) -> None:
        """Send SIGSTOP, and return once every thread stands still: one hears it, and the others go on till then."""
        self.signal(signal.SIGSTOP)
        eventually(lambda: _stands_still(self.popen.pid), "it stands still")

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        return self.popen.wait(seconds)

    def says(self, words: str) -> bool:
        return words in self.log.read_text()

    def end(self) -> None:
        """Make sure it is gone, however the test went."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(PATIENCE_SECONDS)


def _stands_still(pid: int) -> bool:
    try:
        return all("\nState:\tT" in one.read_text() for one in Path(f"/proc/{pid}/task").glob("*/status"))
    except OSError:  # a thread has just ended
        return False


class Processes:
    """Starts worker processes for a test, and ends them with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Process] = []

    def start(self, *arguments: str, url: str, simulator: Simulator, **settings: str) -> Process:
        environment = {
            "MAILROOM_DATABASE_URL": url,
            "MAILROOM_SECRET_KEY": KEY_HEX,
            "MAILROOM_BATCH_TIMEOUT": "0",
            "MAILROOM_SES_BULK_RATE": "unlimited",
        }
        log = self._folder / f"{len(self._started)}.log"
        process = Process(list(arguments), environment | aws(simulator) | settings, log)
        self._started.append(process)
        return process

    def worker(self, *arguments: str, url: str, simulator: Simulator, **settings: str) -> Process:
        """Start `mailroom worker`, and return once it works."""
        process = self.start("worker", *arguments, url=url, simulator=simulator, **settings)
        eventually(lambda: process.says("worker started") or process.popen.poll() is not None, "a worker starts")
        assert process.popen.poll() is None, process.log.read_text()
        return process

    def logs(self) -> str:
        return "".join(process.log.read_text() for process in self._started)

    def end(self) -> None:
        for process in self._started:
            process.end()
