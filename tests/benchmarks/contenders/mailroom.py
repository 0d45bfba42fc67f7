"""mailroom's worker as it is, with a transport that does nothing, or waits as long as a call to SES takes."""

import signal
import time
from collections.abc import Sequence
from datetime import timedelta

import psycopg

from mailroom.db.engine import connect_engine
from mailroom.job import Action
from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome, Sent
from mailroom.queue.limits import Limits
from mailroom.queue.listener import Listener
from mailroom.worker.shared import Shared
from mailroom.worker.worker import Worker
from tests.benchmarks import rows
from tests.benchmarks.contenders.program import MESSAGE_ID, How, Stamps, await_go, run
from tests.kinds import RECOVERY
from tests.world import KEY


class NoTransport:
    """Says that everything was sent; notes when it was handed a recovery."""

    max_call_time = timedelta(0)
    throttles: frozenset[str] = frozenset()
    keeps_apart = False

    def __init__(self, call_seconds: float, stamps: Stamps) -> None:
        self._call_seconds = call_seconds
        self._stamps = stamps

    def unmailable(self, mail: Mail) -> None:
        """Nothing is known against any."""

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Outcome]:
        """See `Transport.send`."""
        if action == RECOVERY:
            for mail in mails:
                self._stamps.note(mail.token)
        if self._call_seconds:
            time.sleep(self._call_seconds)
        return [Sent(MESSAGE_ID)] * len(mails)


def prepare(url: str) -> None:
    """Migrate, and have accounts that can ask for recoveries."""
    rows.migrated(url)
    rows.add_active_accounts(url, 10_000)


def ask(url: str, count: int, gap: float, stamps: Stamps) -> None:
    """Ask for recoveries, each of another account."""
    with psycopg.connect(url, autocommit=True) as connection:
        accounts = connection.execute("SELECT id FROM accounts WHERE status = 'active' LIMIT %s", [count]).fetchall()
        for (account,) in accounts:
            asked = connection.execute(
                "INSERT INTO tokens (action, account) VALUES ('password_recovery', %s) RETURNING id", [account]
            ).fetchone()
            assert asked is not None
            stamps.note(asked[0])
            time.sleep(gap)


def work(url: str, how: How) -> None:
    """Run a worker process, with a listener."""
    engine = connect_engine(url, pool_size=how.concurrency + 2)
    limits = Limits("mailroom", how.batch, batch_timeout=timedelta(0), lease=timedelta(seconds=30))
    shared = Shared(engine, NoTransport(how.call_seconds, Stamps(how.stamps)), key=KEY, limits=limits)
    worker = Worker(shared, concurrency=how.concurrency, sweep_interval=timedelta(seconds=5))
    listener = Listener(
        url, "token_insert", healthcheck_interval=timedelta(seconds=270), woken=worker.woken, ping=worker.ping
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    await_go()
    worker.run(listener)


if __name__ == "__main__":
    run(prepare=prepare, enqueue=rows.fill, ask=ask, work=work)
