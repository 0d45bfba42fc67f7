"""How fast one worker process drains a backlog: with a transport that does nothing, and through boto3."""

import json
import statistics
import time
import urllib.request
from dataclasses import dataclass

import psutil
from sqlalchemy import Engine, text

from mailroom.embedded import EmbeddedPostgres, free_port
from tests.benchmarks.machine import cpu_seconds, fresh_database, insert_accounts, process, wait_for, worker_environment

JOBS = 50_000


@dataclass(frozen=True, slots=True)
class Drained:
    """Of one run: jobs a second from the first delivery to the last, and CPU microseconds a job, by process."""

    rate: float
    worker_cpu: float
    server_cpu: float
    simulator_cpu: float


def measure(*, concurrency: int, through_boto3: bool, old_snapshot: bool = False) -> Drained:
    """Fill a fresh database, start a worker, and wait until the last job is settled."""
    with fresh_database() as (postgres, engine):
        insert_accounts(engine, JOBS)
        environment = worker_environment(postgres.url())
        holder = engine.connect().execution_options(isolation_level="REPEATABLE READ") if old_snapshot else None
        if holder is not None:
            holder.execute(text("SELECT count(*) FROM jobs"))
        if through_boto3:
            port = free_port()
            with process("-m", "mailroom", "simulator", "--port", str(port), "--ledger-limit", "1000") as simulator:
                wait_for(lambda: _answers(port), simulator)
                url = f"http://127.0.0.1:{port}"
                command = ["-m", "mailroom", "worker", "--no-listen", "--concurrency", str(concurrency)]
                with process(*command, **environment, AWS_ENDPOINT_URL_SESV2=url) as worker:
                    drained = _drain(engine, postgres, worker, simulator)
        else:
            command = ["-m", "tests.benchmarks.idle_transport_worker", str(concurrency)]
            with process(*command, **environment) as worker:
                drained = _drain(engine, postgres, worker, None)
        if holder is not None:
            holder.close()
        return drained


def median(runs: list[Drained]) -> Drained:
    """The median of each figure."""
    return Drained(*(statistics.median(getattr(run, name) for run in runs) for name in Drained.__slots__))


def _drain(
    engine: Engine, postgres: EmbeddedPostgres, worker: psutil.Process, simulator: psutil.Process | None
) -> Drained:
    server = psutil.Process(postgres.pid)
    ours = [worker, *([simulator] if simulator else [])]
    with engine.connect() as connection:
        settled = text("SELECT count(*) FROM deliveries")
        wait_for(lambda: bool(connection.scalar(settled)), worker)
        done, began = connection.scalar(settled), time.perf_counter()
        before = [cpu_seconds(one) for one in ours]
        server_before = cpu_seconds(server)
        left = text("SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM batches)")
        wait_for(lambda: connection.scalar(left) == 0, worker)
        seconds, jobs = time.perf_counter() - began, JOBS - (done or 0)
    spent = [(cpu_seconds(one) - earlier) / jobs * 1e6 for one, earlier in zip(ours, before, strict=True)]
    server_spent = (cpu_seconds(server) - server_before) / jobs * 1e6
    return Drained(jobs / seconds, spent[0], server_spent, spent[1] if simulator else 0.0)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_simulator/counts") as answer:
            return "requests" in json.load(answer)
    except OSError:
        return False
