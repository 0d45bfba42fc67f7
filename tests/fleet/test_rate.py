"""The rate of a whole fleet of processes, measured where it counts: by what SES accepted, and when."""

import statistics
import threading
import time
from dataclasses import dataclass

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.simulator import Simulator
from tests.rating import burst, excess, ours
from tests.running import Processes, eventually
from tests.world import add_accounts, ask_recovery, misplaced, rows

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.xdist_group("fleets")]
# The pace of our own processes: the statements behind it are tested on each server, in test_buckets and its neighbours.
EACH_SERVER = False

# What is used falls where the machine stands still for a moment, too: that spoils one spell, a fault of ours each.
USED = 0.95
SPELLS = 4

# These have hardly anything to do: they may run beside a fleet that has.
IN_NO_HURRY = pytest.mark.xdist_group("in no hurry")

SENDING = {"SendEmail", "SendBulkEmail"}


@dataclass(frozen=True, slots=True)
class Measured:
    """Of a run: mails a second and the most in any second, as shares of the fleet's rate; excess over the bound."""

    used: float
    worst_second: float
    excess: float
    calls: int
    throttled: int

    def __str__(self) -> str:
        shares = f"used {self.used:.1%}, worst second {self.worst_second:.1%}, excess {self.excess:.2f}"
        return f"{shares}, calls {self.calls}, throttled {self.throttled}"


def measure(simulator: Simulator, rate: float, *, since: float, until: float) -> Measured:
    moments = sorted(mail.accepted_at.timestamp() for mail in simulator.ledger.mails)
    counted = [moment for moment in moments if since <= moment < until]
    first = 0
    worst = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 1:
            first += 1
        worst = max(worst, last - first + 1)
    calls = [request for request in simulator.ledger.requests if request.operation in SENDING]
    return Measured(
        used=len(counted) / (until - since) / rate,
        worst_second=worst / rate,
        excess=excess(moments, rate, burst(rate, hold=0.5)),
        calls=len(calls),
        throttled=sum(call.status != 200 for call in calls),
    )


def spell(simulator: Simulator, rate: float, seconds: float) -> Measured:
    since = time.time()
    threading.Event().wait(seconds)
    return measure(simulator, rate, since=since, until=time.time())


def ask_ses(connection: Connection) -> None:
    """Forget what the tests' databases know of the account, so that the fleet asks SES."""
    connection.execute(
        text("UPDATE ses_account SET fetched_at = NULL, max_send_rate = NULL, refresh_due_at = '-infinity'")
    )


def backlog(connection: Connection, count: int) -> None:
    add_accounts(connection, count)
    connection.execute(text("ANALYZE jobs"))


@pytest.mark.parametrize(
    ("max_send_rate", "workers", "seconds", "settings"),
    [
        pytest.param(1, 2, 20, {}, marks=IN_NO_HURRY),
        pytest.param(14, 1, 12, {}, marks=IN_NO_HURRY),
        pytest.param(14, 4, 12, {}, marks=IN_NO_HURRY),
        pytest.param(14, 8, 15, {}, marks=IN_NO_HURRY),
        (100, 1, 8, {}),
        (100, 4, 8, {}),
        (100, 8, 8, {}),
        (500, 1, 8, {"MAILROOM_SES_BULK_RATE": "unlimited", "MAILROOM_BATCH_LIMIT": "50"}),
        (500, 4, 8, {"MAILROOM_SES_BULK_RATE": "unlimited", "MAILROOM_BATCH_LIMIT": "50"}),
        (500, 8, 8, {"MAILROOM_SES_BULK_RATE": "unlimited", "MAILROOM_BATCH_LIMIT": "50"}),
    ],
)
def test_the_fleet_keeps_to_its_rate_and_uses_it(  # noqa: PLR0917 - fixtures and parameters
    engine: Engine,
    url: str,
    simulator: Simulator,
    processes: Processes,
    capsys: pytest.CaptureFixture[str],
    max_send_rate: float,
    workers: int,
    seconds: float,
    settings: dict[str, str],
) -> None:
    simulator.account.max_send_rate = max_send_rate
    rate = ours(max_send_rate)
    with engine.connect() as connection:
        ask_ses(connection)
        backlog(connection, int(rate * (SPELLS * seconds + 40)))
        given = {"MAILROOM_SES_BULK_RATE": "1", "MAILROOM_SWEEP_INTERVAL": "1000"} | settings
        for _ in range(workers):
            processes.start("worker", "--concurrency", "4", "--no-listen", url=url, simulator=simulator, **given)
        for _ in range(2):
            processes.start("sweep", "--max-seconds", str(SPELLS * seconds + 30), url=url, simulator=simulator, **given)
        eventually(lambda: processes.logs().count("worker started") == workers, "all workers run")
        threading.Event().wait(2)  # the first second is that of a full bucket
        for _ in range(SPELLS):
            measured = spell(simulator, rate, seconds)
            with capsys.disabled():
                print(f"\nrate {rate:g}, workers {workers}: {measured}")
            if measured.used >= USED:
                break
        assert rows(connection, "SELECT FROM jobs LIMIT 1")
    assert measured.excess <= 0
    assert measured.used >= USED
    assert measured.throttled <= measured.calls / 1000


def test_a_recovery_passes_100_000_bulk_jobs_within_two_seconds(
    engine: Engine,
    url: str,
    direct_url: str,
    simulator: Simulator,
    processes: Processes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    simulator.account.max_send_rate = 14
    with engine.connect() as connection:
        ask_ses(connection)
        people = add_accounts(connection, 40, status="active", prefix="person")
        backlog(connection, 100_000)
        for _ in range(2):
            processes.worker(*("--concurrency", "2"), url=url, simulator=simulator, MAILROOM_SES_BULK_RATE="1")
        eventually(lambda: simulator.ledger.counts().mails > 30, "the backlog is being worked on")
        asked: dict[str, float] = {}
        for person in people:
            token = ask_recovery(connection, person)
            asked[str(token)] = time.time()
            threading.Event().wait(0.5)
        eventually(lambda: all(simulator.ledger.sent_tokens()[token] for token in asked), "all are sent", seconds=10)
        assert misplaced(connection) == []
    waits = [
        mail.accepted_at.timestamp() - asked[mail.tags["mailroom_token"]]
        for mail in simulator.ledger.mails
        if mail.tags["mailroom_token"] in asked
    ]
    p95 = statistics.quantiles(waits, n=20)[-1]
    with capsys.disabled():
        print(
            f"\nrecoveries {len(waits)}: p50 {statistics.median(waits):.2f} s, p95 {p95:.2f} s, max {max(waits):.2f} s"
        )
    assert p95 < 2
