"""What all processes count against what is on record, while SES fails, a process is killed, and answers are lost."""

import itertools
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, text

from mailroom.simulator import Fault, Simulator
from tests.proxy import HalfOpenProxy
from tests.running import Process, Processes, eventually
from tests.worker.counting import (
    Counted,
    attempted,
    but_untried,
    calls,
    counted,
    recorded,
    untried,
    value,
    waits,
)
from tests.worker.watched import get
from tests.world import add_accounts, count, drained, execute, misplaced, rows, transaction

pytestmark = pytest.mark.slow

SENDING = {"SendEmail", "SendBulkEmail"}
# Keeps who claimed which batch, also once it is closed. A worker is called after its machine, its process, and more.
OWNERS = (
    "CREATE TABLE public.owners (batch bigint, worker text)",
    "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN INSERT INTO public.owners VALUES (NEW.id, NEW.worker); RETURN NEW; END'",
    "CREATE TRIGGER note AFTER INSERT ON batches FOR EACH ROW EXECUTE FUNCTION public.note()",
)
# What is to be killed is told by the name of its sessions.
DOOMED = "doomed"
SESSIONS = f"pg_stat_activity WHERE datname = current_database() AND application_name = '{DOOMED}'"


class LosesAnswers(HalfOpenProxy):
    """Passes some settlements on, and closes the connection instead of passing their answers back."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.to_lose = 0
        self.lost = 0
        self._asked: set[socket.socket] = set()

    def _pass(self, source: socket.socket, pairs: dict[socket.socket, socket.socket]) -> None:
        if source in self._asked:  # the server has an answer
            self._asked.discard(source)
            self.lost += 1
            for one in (source, pairs.pop(source)):
                pairs.pop(one, None)
                one.close()
            return
        if self.to_lose and re.search(rb"\bsettle\(", source.recv(65536, socket.MSG_PEEK)):
            self.to_lose -= 1
            self._asked.add(pairs[source])
        super()._pass(source, pairs)


@dataclass(frozen=True, slots=True)
class Member:
    """A worker with a port for probes."""

    process: Process
    port: int

    def metrics(self) -> str:
        return get(self.port, "/metrics")[1]

    def batches(self, connection: Connection) -> list[int]:
        """Those that it ever claimed."""
        sql = "SELECT batch FROM public.owners WHERE split_part(worker, '/', 2) = :pid"
        return [row.batch for row in rows(connection, sql, pid=str(self.process.popen.pid))]


def start(processes: Processes, url: str, simulator: Simulator, **settings: str) -> Member:
    arguments = ("--concurrency", "3", "--probe-port", "0")
    worker = processes.worker(*arguments, url=url, simulator=simulator, MAILROOM_UNCONFIRMED_WAIT="100", **settings)
    return Member(worker, int(worker.log.read_text().partition("probes address=127.0.0.1:")[2].split()[0]))


def blow(simulator: Simulator) -> None:
    """Let SES fail in every way it knows."""
    for name in ("TooManyRequestsException", "MessageRejected", "InternalServiceErrorException", "ServiceUnavailable"):
        simulator.faults.add(Fault(error=name, times=None, probability=0.03))
    for place, status in enumerate(("TRANSIENT_FAILURE", "FAILED", "MESSAGE_REJECTED", "ACCOUNT_THROTTLED", "NEW")):
        simulator.faults.add(Fault(operation="SendBulkEmail", entries={place: status}, times=None, probability=0.03))
    for how in ("drop", "truncate"):
        simulator.faults.add(Fault(accept_then=how, times=None, probability=0.02))
    for results in ("short", "empty"):
        simulator.faults.add(Fault(operation="SendBulkEmail", results=results, times=None, probability=0.02))
    simulator.faults.add(Fault(latency_ms=200, times=None, probability=0.3))


def parts(connection: Connection, count: int) -> Iterator[int]:
    """Add 75 accounts each time, a little apart."""
    for part in range(count):
        add_accounts(connection, 75, prefix=f"part{part}-")
        time.sleep(0.1)
        yield part


def lossy_parts(connection: Connection, count: int, proxy: LosesAnswers) -> Iterator[int]:
    """With each sixth part, from the first on, an answer to a settlement is lost."""
    for part in parts(connection, count):
        proxy.to_lose += part % 6 == 0
        yield part


def let_it_end(connection: Connection) -> None:
    """Return once all is over; what waits for another attempt, and what is paused, need not wait here."""

    def over() -> bool:
        connection.execute(text("UPDATE jobs SET due_at = now() WHERE due_at > now()"))
        connection.execute(text("DELETE FROM pauses"))
        time.sleep(0.2)
        return drained(connection)

    eventually(over, "all is over", seconds=180)


def heard(simulator: Simulator) -> int:
    """How many calls to send mails SES has heard of."""
    return sum(request.operation in SENDING for request in simulator.ledger.requests)


def test_all_processes_together_count_what_is_on_record(
    url: str, engine: Engine, simulator: Simulator, processes: Processes
) -> None:
    """No process is killed, and no answer of the database is lost: then they agree."""
    blow(simulator)
    workers = [start(processes, url, simulator) for _ in range(3)]
    with engine.connect() as connection:
        assert len(list(parts(connection, 20))) == 20
        with transaction(engine) as gone:  # nobody sees them before they are suspended
            accounts = add_accounts(gone, 10, prefix="gone")
            gone.execute(text("UPDATE accounts SET status = 'suspended' WHERE id = ANY(:ids)"), {"ids": accounts})
            gone.commit()
        connection.execute(text("UPDATE accounts SET status = 'suspended' WHERE id % 50 = 0"))
        let_it_end(connection)
        expected = recorded(connection)
        assert {outcome for _, outcome in expected} >= {"sent", "rejected", "deferred", "unconfirmed", "cancelled"}

        def together() -> Counted:
            return sum((counted(worker.metrics()) for worker in workers), Counted())

        eventually(lambda: but_untried(together()) == expected, "the metrics agree with the record")
        found = [worker.metrics() for worker in workers]
        assert sum(map(calls, found)) == heard(simulator)
        tried = attempted(connection)
        assert tried <= sum(map(waits, found)) <= tried + untried(together())
        assert misplaced(connection) == []


def test_what_a_process_that_was_killed_counted_is_less_than_is_on_record_and_the_others_agree_with_their_own(
    url: str, engine: Engine, simulator: Simulator, processes: Processes
) -> None:
    """And an answer that is lost moves mails to `late`: the settlement is repeated, and finds its batch closed."""
    blow(simulator)
    execute(engine, *OWNERS)
    with LosesAnswers(url) as proxy, engine.connect() as connection:
        steady, doomed = (
            start(processes, each, simulator, MAILROOM_SWEEP_INTERVAL="500")
            for each in (url, make_conninfo(url, application_name=DOOMED))
        )
        unlucky = start(processes, proxy.url, simulator)
        more = lossy_parts(connection, 90, proxy)
        last = [doomed.metrics() for _ in itertools.islice(more, 10)][-1]
        seen = but_untried(counted(last))
        # Of three that take what there is, it takes some before long.
        next(part for part in more if recorded(connection, doomed.batches(connection)).total() > seen.total())
        held = next(filter(None, (kill(doomed, connection) for _ in more)))
        part = list(itertools.islice(more, 10))[-1]
        let_it_end(connection)
        assert proxy.lost == part // 6 + 1
        _agrees(steady, connection)
        _agrees(unlucky, connection, lost=True)
        own = recorded(connection, doomed.batches(connection))
        assert seen.total() > 0
        assert seen - own == Counted(), "a process counts what it has recorded, and not before"
        rescued = count(connection, "deliveries WHERE error_code = 'LeaseExpired'")
        alive = [steady.metrics(), unlucky.metrics()]
        assert rescued == held == sum(value(one, "mailroom_rescued_mails_total") for one in alive)
        together = seen + sum((but_untried(counted(one)) for one in alive), Counted())
        # What is missing is what the dead one recorded after it was last scraped, and nothing else.
        assert recorded(connection).total() - together.total() == own.total() - seen.total() > 0
        assert sum(map(calls, [last, *alive])) < heard(simulator)
        assert misplaced(connection) == []


def kill(worker: Member, connection: Connection) -> int:
    """Kill it if it has mails in flight, let their leases end, and return how many they are; else leave it alone."""
    mine = f"batches WHERE split_part(worker, '/', 2) = '{worker.process.popen.pid}'"
    worker.process.freeze()
    if not count(connection, mine) or count(connection, f"{SESSIONS} AND state = 'active'"):
        worker.process.signal(signal.SIGCONT)
        return 0
    worker.process.signal(signal.SIGKILL)
    worker.process.wait()
    eventually(lambda: not count(connection, SESSIONS), "the server has done what it was asked last")
    held = sum(len(row.tokens) for row in rows(connection, f"SELECT tokens FROM {mine}"))  # noqa: S608 - our own words
    connection.execute(text(f"UPDATE {mine.replace(' WHERE', ' SET lease_until = now() WHERE')}"))  # noqa: S608 - as above
    return held


def _agrees(worker: Member, connection: Connection, *, lost: bool = False) -> None:
    """See that a process that lives has counted the rows of its own batches, with their outcomes.

    Where an answer was `lost`, as many mails are counted as `late` instead.
    """
    mine = worker.batches(connection)
    own = recorded(connection, mine)
    eventually(lambda: but_untried(counted(worker.metrics())).total() == own.total(), "it has counted all of its own")
    exposition = worker.metrics()
    found = but_untried(counted(exposition))
    late = {outcome for _, outcome in (found - own)}
    assert late == ({"late"} if lost else set())
    tried = attempted(connection, mine)
    assert tried <= waits(exposition) <= tried + untried(counted(exposition))
