"""Measure, and write docs/benchmarks.md. Takes about five minutes; RUNS as the argument, 3 if there is none."""

import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import drain, other
from tests.benchmarks.drain import Drained
from tests.benchmarks.machine import describe, fresh_database

PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `make bench`; every figure is from one run of it, on one machine, over loopback, with PostgreSQL, the worker
and the simulator sharing its cores. The server is durable (`fsync` and `synchronous_commit` on). Medians of {runs}
interleaved runs. Absolute figures move from machine to machine; ratios move less.

Machine: {machine}.
"""


def say(words: str) -> None:
    sys.stderr.write(words + "\n")


def drains(runs: int) -> dict[str, list[Drained]]:
    """Each way to drain, in turn."""
    ways: dict[str, dict[str, Any]] = {
        "nothing, 1 sender": {"concurrency": 1, "through_boto3": False},
        "nothing, 4 senders": {"concurrency": 4, "through_boto3": False},
        "nothing, 4 senders, old snapshot held": {"concurrency": 4, "through_boto3": False, "old_snapshot": True},
        "boto3 to the simulator, 1 sender": {"concurrency": 1, "through_boto3": True},
        "boto3 to the simulator, 4 senders": {"concurrency": 4, "through_boto3": True},
    }
    taken: dict[str, list[Drained]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, how in ways.items():
            taken[way].append(drain.measure(**how))
            say(f"{way}: {taken[way][-1].rate:,.0f} a second")
    return taken


def drain_table(taken: dict[str, list[Drained]]) -> str:
    lines = [
        f"## One worker process drains {drain.JOBS:,} jobs in batches of 50",
        "",
        "CPU is microseconds a mail.",
        "",
        "| transport | mails/s, median [min-max] | CPU worker | CPU PostgreSQL | CPU simulator |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, runs in taken.items():
        middle, rates = drain.median(runs), sorted(run.rate for run in runs)
        lines.append(
            f"| {way} | {middle.rate:,.0f} [{rates[0]:,.0f}-{rates[-1]:,.0f}]"
            f" | {middle.worker_cpu:.0f} | {middle.server_cpu:.0f} | {middle.simulator_cpu:.0f} |"
        )
    fresh, old = (drain.median(taken[way]).rate for way in list(taken)[1:3])
    lines += ["", f"With an old snapshot held by another session: {old / fresh:.0%} of the rate without."]
    return "\n".join(lines)


def other_tables(runs: int) -> str:
    inserted, idle = other.measure_inserts(runs), other.measure_idle()
    by_triggers, by_hand = inserted.triggers, inserted.by_hand
    return f"""## {other.ACCOUNTS:,} accounts in one INSERT

| what | seconds | accounts/s |
| --- | --- | --- |
| accounts alone, triggers disabled | {inserted.accounts_alone:.2f} | {other.ACCOUNTS / inserted.accounts_alone:,.0f} |
| the same rows in all three tables, by hand, without triggers | {by_hand:.2f} | {other.ACCOUNTS / by_hand:,.0f} |
| with the triggers | {by_triggers:.2f} | {other.ACCOUNTS / by_triggers:,.0f} |

The triggers run at {by_hand / by_triggers:.0%} of the speed of the same rows written by hand.

## An idle worker

One process with 4 senders that listens, for {other.IDLE_SECONDS:.0f} s: {idle.statements:.2f} transactions a second
in its database (autovacuum's included), {idle.cpu_percent:.2f} % of a core, {idle.memory:.0f} MB resident.
"""


def main(runs: int) -> None:
    with fresh_database() as (_, engine):
        head = HEAD.format(runs=runs, machine=describe(engine))
    drained = drain_table(drains(runs))
    PAGE.write_text("\n".join([head, drained, "", other_tables(runs)]))
    say(f"written: {PAGE}")


main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
