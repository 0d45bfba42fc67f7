"""One run of the kind that several measures need: workers drain a queue that was filled before."""

import contextlib
from dataclasses import dataclass

from tests.benchmarks.contenders import Contender
from tests.benchmarks.contenders.program import How
from tests.benchmarks.machine import Server, old_snapshot, scalar


@dataclass(frozen=True, slots=True)
class Drained:
    """Jobs a second from the start to the last settlement, by the server's clock; CPU in microseconds a job."""

    rate: float
    worker_cpu: float
    server_cpu: float


def drain(
    server: Server, contender: Contender, how: How, *, jobs: int, processes: int = 1, snapshot: bool = False
) -> Drained:
    """Let so many worker processes drain a fresh copy of a filled database, all beginning at once."""
    kind = (contender.prepare, contender.name, jobs)
    with server.copy(kind, lambda url: contender.prepare(url, jobs)) as database, contextlib.ExitStack() as stack:
        stack.enter_context(old_snapshot(server, database, held=snapshot))
        connection = stack.enter_context(server.connect(database))
        workers = [stack.enter_context(contender.worker(server.url(database), how)) for _ in range(processes)]
        server_before = server.cpu_seconds()
        workers_before = sum(worker.cpu_seconds() for worker in workers)
        began_at = scalar(connection, "SELECT clock_timestamp()")
        for worker in workers:
            worker.go()
        workers[0].wait_for(lambda: contender.has_drained(connection, jobs))
        workers_spent = sum(worker.cpu_seconds() for worker in workers) - workers_before
        server_spent = server.cpu_seconds() - server_before
        seconds = (scalar(connection, contender.last_done) - began_at).total_seconds()
    return Drained(jobs / seconds, workers_spent / jobs * 1e6, server_spent / jobs * 1e6)
