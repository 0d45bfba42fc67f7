"""`collect` and `send`: the same work in two processes with lines of text between them."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mailroom import settings, signals
from mailroom.cli.log import log, start_log
from mailroom.cli.wiring import limits, open_database, open_queue, open_transport, refuse_closed_output
from mailroom.cli.worker import (
    LISTEN,
    BatchLimit,
    BatchTimeout,
    QueueName,
    listener,
    run_until_stopped,
)
from mailroom.db.engine import first_line
from mailroom.errors import LineError, MailroomError, SettingsError, UnknownActionError
from mailroom.fleet import clock
from mailroom.fleet.permits import NoLimit
from mailroom.job import Action
from mailroom.mail.pipe import MAX_LINE, PipeTransport, parse
from mailroom.mail.templates import language_flags
from mailroom.mail.transport import MAX_CALL_TIME, Mail, Transport
from mailroom.ops import templates
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Untried
from mailroom.queue import lanes
from mailroom.worker.bisection import Bisection
from mailroom.worker.call_sharing import CallSharing
from mailroom.worker.shared import Shared
from mailroom.worker.worker import Worker

DEFAULT_OUTPUT_PATH: Final = Path("./output")
MAX_CALL: Final = 50
# For the mails of a call: a search for the one that SES refuses must end, too.
MAX_LINE_TIME: Final = 2 * MAX_CALL_TIME
# As often as a worker looks, by default.
KINDS_EVERY: Final = timedelta(seconds=5)
# Seconds before each time that what SES throttled is sent again: whoever writes the lines waits meanwhile.
THROTTLED_WAITS: Final = (1.0, 2.0, 4.0, 8.0)


def collect(
    *,
    listen: Annotated[bool, LISTEN] = True,
    batch_limit: BatchLimit = None,
    batch_timeout: BatchTimeout = None,
    queue_name: QueueName = None,
) -> None:
    """Claim batches and print a line for each.

    It runs until it is stopped. A line has the fields action,email,login,secret,code of each mail, one mail after the
    other. It holds addresses and secrets: pipe it to `mailroom send`.

    A batch counts as sent once its line is written. If the output is closed, the batch goes back to the queue and the
    exit code is 1.
    """
    start_log()
    refuse_closed_output()
    given = settings.load(
        "database_url", "secret_key", batch_limit=batch_limit, batch_timeout=batch_timeout, queue_name=queue_name
    )
    with (
        open_queue(given, pool_size=3) as engine,
        open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as out,
    ):
        shared = Shared(
            engine,
            PipeTransport(out),
            key=given.signing_key,
            limits=limits(given, into_pipe=True),
            permits=NoLimit(batches_wait=True),
        )
        work = Worker(shared, concurrency=1, sweep_interval=given.sweep_interval)
        run_until_stopped(work, listener(given, work) if listen else None)


def send() -> None:
    """Read lines of `collect` and send them.

    It runs until the input ends. The database says which template an action has, and is asked now and then. Mails go
    out in its default language, since a line has no field for another one. A malformed line is reported with its
    number and skipped. Raw error answers of SES go to MAILROOM_SES_OUTPUT_PATH.

    What SES throttles is sent again after a moment, for 15 s at most.

    Exit 1 if any mail failed or any line was malformed. Nothing tries these mails again.

    A first signal does not stop it, because what `collect` has written counts as sent. A second signal ends it at once.
    """
    start_log()
    if sys.stdin is None:
        raise SettingsError("the standard input is closed: send has nothing to read")
    given = settings.load("database_url")
    output_path = given.ses_output_path or DEFAULT_OUTPUT_PATH
    with signals.answered_by(lambda: log.info("stopping when the input ends")):
        transport = open_transport(given, connections=1, output_path=output_path)
        with open_database(given, writes=False) as engine:
            kinds, sharing = _Kinds(engine), CallSharing()
            failed = sum(
                _send_checked(transport, sharing, number, line, kinds) for number, line in enumerate(_lines(), start=1)
            )
    if failed:
        raise typer.Exit(1)


class _Kinds:
    """The kinds of mail as the database has them, which may change while lines come: it is asked now and then."""

    def __init__(self, engine: Engine) -> None:
        """Raises DBAPIError, as nothing does later."""
        self._engine = engine
        self._actions: Mapping[str, Action] = {}
        self._languages: Mapping[str, str] = {}
        self._read_at = 0.0
        self._read()

    def mails(self, line: str) -> list[tuple[Action, Mail]]:
        """Return what a line asks for. Raises LineError; for an unknown number only after the database was asked."""
        self._refresh(KINDS_EVERY.total_seconds())
        try:
            return self._parsed(line)
        except UnknownActionError:  # `collect` may have heard of it before
            self._refresh(0.0)
            return self._parsed(line)

    def _parsed(self, line: str) -> list[tuple[Action, Mail]]:
        return [
            (action, replace(mail, data=self._languages.get(action.template)))
            for action, mail in parse(line, self._actions)
        ]

    def _refresh(self, every: float) -> None:
        if clock.seconds() - self._read_at < every:
            return
        try:
            self._read()
        except (SQLAlchemyError, MailroomError) as error:
            said = first_line(error) if isinstance(error, DBAPIError) else type(error).__name__
            log.warning("kinds of mail cannot be read, and stay as they were: %s", said)
        self._read_at = clock.seconds()

    def _read(self) -> None:
        with self._engine.connect() as connection:
            actions = {str(action.number): action for action in lanes.read(connection).actions.values()}
            languages = _default_languages(connection)
        self._actions, self._languages = actions, languages
        self._read_at = clock.seconds()
        self._engine.dispose()  # it may be long before the next line comes


def _default_languages(connection: Connection) -> dict[str, str]:
    """Return by template what makes a mail one in the default language: a line has no field for another."""
    flags = {each.name: language_flags(each.languages, each.default_language) for each in templates.listing(connection)}
    return {template: json.dumps(given) for template, given in flags.items() if given}


def _send_checked(transport: Transport, sharing: CallSharing, number: int, line: str, kinds: _Kinds) -> int:
    """Read a line and send its mails; return how many failed, or 1 if it is malformed."""
    try:
        mails = kinds.mails(line)
    except LineError as error:
        log.error("line %d skipped: %s", number, error)
        return 1
    return _send_line(transport, sharing, number, mails)


def _lines() -> Iterator[str]:
    """Lines of the input, by line feed alone, none longer than what `parse` refuses as too long."""
    source = open(sys.stdin.fileno(), encoding="utf-8", errors="surrogateescape", newline="\n", closefd=False)  # noqa: SIM115
    while line := source.readline(MAX_LINE + 1):
        yield line
        while not line.endswith("\n") and line:
            line = source.readline(MAX_LINE + 1)


def _send_line(transport: Transport, sharing: CallSharing, number: int, mails: Sequence[tuple[Action, Mail]]) -> int:
    """Send the mails of a line, a call for each action and 50 of them; return how many failed."""
    failed = 0
    for action in sorted({action for action, _ in mails}, key=lambda action: action.number):
        of_action = [mail for each, mail in mails if each == action]
        for start in range(0, len(of_action), MAX_CALL):
            part = of_action[start : start + MAX_CALL]
            outcomes = _outcomes(transport, sharing, action, part)
            sent = sum(isinstance(outcome, Sent) for outcome in outcomes)
            failed += len(part) - sent
            log.info("line %d action=%s mails=%d sent=%d", number, action, len(part), sent)
            for outcome in outcomes:
                if not isinstance(outcome, Sent):
                    kind = "rejected" if isinstance(outcome, Rejected) else type(outcome).__name__.lower()
                    log.warning("line %d action=%s outcome=%s code=%s", number, action, kind, outcome.code)
    return failed


def _outcomes(transport: Transport, sharing: CallSharing, action: Action, mails: Sequence[Mail]) -> list[Outcome]:
    """Send mails; again those that a search has left untried, and after a while those that SES throttled.

    Nobody else tries them again. Meanwhile no line is read, and `collect` claims no more than fits into the pipe.
    """
    found: dict[int, Outcome] = {}
    left, waits = list(range(len(mails))), iter(THROTTLED_WAITS)
    while left:
        deadline = clock.seconds() + MAX_LINE_TIME.total_seconds()
        # Nobody pauses: the mail for which SES refuses the others is worth looking for.
        calls = Bisection(
            transport, action, batch=None, deadline=deadline, sharing=sharing, others_are_accepted=lambda _: True
        )
        found.update(zip(left, calls.send([mails[place] for place in left]), strict=True))
        throttled = {place for place in left if _is_throttled(found[place], transport)}
        progressed = any(isinstance(found[place], Sent | Rejected) for place in left)
        wait = next(waits, None) if throttled else 0.0 if progressed else None
        if wait is None:
            break
        time.sleep(wait)
        left = [place for place in left if place in throttled or isinstance(found[place], Untried)]
    return [found[place] for place in range(len(mails))]


def _is_throttled(outcome: Outcome, transport: Transport) -> bool:
    """Whether it was too much for this moment; the quota of a day is another matter, and has a scope."""
    return isinstance(outcome, Deferred) and outcome.scope is None and outcome.code in transport.throttles
