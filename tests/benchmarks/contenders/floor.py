"""The floor: the least SQL that does mailroom's work on mailroom's tables, over psycopg alone.

Two prepared statements and two commits a batch; no lanes, pauses, checks, signatures, log or limits.
"""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psycopg

from tests.benchmarks import rows
from tests.benchmarks.contenders.mailroom import ask, prepare
from tests.benchmarks.contenders.program import MESSAGE_ID, How, await_go, run

CLAIM: Final = Path(__file__).with_name("floor_claim.sql").read_bytes()
SETTLE: Final = Path(__file__).with_name("floor_settle.sql").read_bytes()


def work(url: str, how: How, *, prepared: bool = True) -> None:
    """Claim and settle on so many connections, a thread each."""
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    connections = [_connect(url, prepared) for _ in range(how.concurrency)]
    threads = [threading.Thread(target=_drain, args=(connection, how, stopping)) for connection in connections]
    await_go()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _connect(url: str, prepared: bool) -> psycopg.Connection[Any]:
    """One on which a claim goes by index, whatever a plan thinks that was made once and is kept."""
    connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
    connection.prepare_threshold = 0 if prepared else None
    connection.execute("SET enable_seqscan = off")
    return connection


def _drain(connection: psycopg.Connection[Any], how: How, stopping: threading.Event) -> None:
    while not stopping.is_set():
        if not work_batch(connection, how.batch, how.call_seconds):
            time.sleep(0.01)


def work_batch(connection: psycopg.Connection[Any], limit: int, call_seconds: float = 0) -> int:
    """Claim a batch, send nothing, and settle it; return how many jobs it had."""
    claimed = connection.execute(CLAIM, {"limit": limit}, binary=True).fetchall()
    if not claimed:
        return 0
    if call_seconds:
        time.sleep(call_seconds)
    results = {
        "batch": claimed[0][0],
        "tokens": [row[1] for row in claimed],
        "accounts": [row[2] for row in claimed],
        "message_ids": [MESSAGE_ID] * len(claimed),
    }
    connection.execute(SETTLE, results)
    return len(claimed)


if __name__ == "__main__":
    run(prepare=prepare, enqueue=rows.fill, ask=ask, work=work)
