"""Keeps what the fleet knows of its SES account fresh: one worker asks, for all."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import first_line
from mailroom.errors import DatabaseError, TransportError
from mailroom.fleet import buckets
from mailroom.job import SesAccount

T = TypeVar("T")

log = logging.getLogger(__name__)

# How long a process waits for the first answer.
FIRST_LOOK: Final = timedelta(seconds=2)
# Between two looks whether an answer is due, at the least: then all of the fleet look, and one asks.
MIN_WAIT: Final = timedelta(seconds=1)
OUTAGE_WAIT: Final = timedelta(seconds=5)
# How long a stop waits for a statement under way; for SES it does not wait.
MAX_STOP: Final = timedelta(seconds=10)


class AccountRefresh:
    """Asks SES when that is due and nobody else of the fleet has. `ask` raises TransportError if there is no answer."""

    def __init__(self, engine: Engine, ask: Callable[[], SesAccount]) -> None:
        self._engine = engine
        self._ask = ask
        self._stopping = threading.Event()
        self._looked = threading.Event()
        self._at_database = threading.Lock()
        self._trouble = self._nothing = ""
        self._wait = OUTAGE_WAIT
        self._tries = buckets.FIRST_TRIES

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Look in a thread of its own, at once and then whenever an answer is due, until the end of the block.

        The block begins once the first look is over, or after FIRST_LOOK.
        """
        thread = threading.Thread(target=self._keep_looking, name="account", daemon=True)
        thread.start()
        self._looked.wait(FIRST_LOOK.total_seconds())
        try:
            yield
        finally:
            self._stopping.set()
            if self._at_database.acquire(timeout=MAX_STOP.total_seconds()):
                self._at_database.release()  # what asks SES now ends with the process, and stores nothing any more

    def refresh(self) -> bool:
        """Ask SES if it is due, and keep the answer; return whether it was. Never raises for SES or the database.

        Trouble is logged once: what was known is used until there is an answer.
        """
        try:
            refresh = self._do(partial(buckets.claim_refresh, first_tries=self._tries))
            if refresh is None:
                return False
            self._wait = max(refresh.due_in, MIN_WAIT)
            if refresh.granted_before is None:
                return False
            account = self._ask()
            self._do(partial(buckets.store, account=account, granted_before=refresh.granted_before))
        except TransportError as error:
            # Who may not ask would ask for ever, and each refusal is on record at AWS.
            self._tries = min(2 * self._tries, buckets.REFRESH_EVERY)
            self._note("GetAccount", str(error))
            return True
        except DBAPIError as error:
            self._wait = OUTAGE_WAIT
            self._note("database", first_line(error))
            return True
        except DatabaseError as error:
            self._wait = OUTAGE_WAIT
            self._note("database", str(error))
            return True
        if self._trouble:
            log.info("account known again")
        self._trouble = ""
        self._note_limits(account)
        return True

    def _keep_looking(self) -> None:
        self.refresh()
        self._looked.set()
        while not self._stopping.wait(self._wait.total_seconds()):
            self.refresh()

    def _do(self, act: Callable[[Connection], T]) -> T | None:
        """Do it, unless the end has come: then nobody would close the connection any more."""
        with self._at_database:
            if self._stopping.is_set():
                return None
            with self._engine.connect() as connection:
                return act(connection)

    def _note(self, what: str, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning(
                "account not known what=%s code=%r: sending at the last known rate, and before any is known at"
                " MAILROOM_SES_RATE, or else %g mail a second",
                *(what, trouble, buckets.UNKNOWN_RATE),
            )
        self._trouble = trouble

    def _note_limits(self, account: SesAccount) -> None:
        """Say once that the account allows nothing, and once that it does again: without a rate nothing is refused."""
        code, reason = _nothing_allowed(account) or ("", "")
        if code and code != self._nothing:
            log.warning("SES allows no mails code=%s reason=%r", code, reason)
        elif self._nothing and not code:
            log.info("SES allows mails again")
        self._nothing = code


def _nothing_allowed(account: SesAccount) -> tuple[str, str] | None:
    """Return the code and the reason, where SES allows the account no mail now. -1 is no limit."""
    if account.max_send_rate == 0:
        return "MaxSendRate", "the account's rate is 0 mails a second"
    if 0 <= account.max_24_hour_send < account.sent_last_24_hours + 1:
        return "Quota", "the quota of 24 hours is used up"
    return None
