"""What the measurements run on: a server with durable settings, a migrated database, processes and their cost."""

import contextlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import psycopg
from sqlalchemy import Engine, text

from mailroom import database
from mailroom.embedded import EmbeddedPostgres
from tests.conftest import migrate
from tests.world import KEY_HEX

# Durable, unlike the tests' server: what a commit costs is part of what is measured.
SERVER = {"shared_buffers": "1GB", "max_wal_size": "4GB", "max_connections": "200"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stretch of work took: seconds on the wall, and CPU seconds of our processes."""

    wall: float
    cpu: float


@contextlib.contextmanager
def fresh_database() -> Iterator[tuple[EmbeddedPostgres, Engine]]:
    """A new server with a migrated database."""
    with EmbeddedPostgres(settings=SERVER) as postgres:
        migrate(postgres.url())
        engine = database.connect_engine(postgres.url(), pool_size=4)
        yield postgres, engine
        engine.dispose()


def insert_accounts(engine: Engine, count: int) -> float:
    """Insert accounts in one statement; return the seconds it took."""
    began = time.perf_counter()
    with engine.connect() as connection:
        connection.execute(
            text(
                "INSERT INTO accounts (email, login)"
                " SELECT 'user' || n || '@example.com', 'user' || n FROM generate_series(1, :count) AS n"
            ),
            {"count": count},
        )
    return time.perf_counter() - began


@contextlib.contextmanager
def process(*command: str, **environment: str) -> Iterator[psutil.Process]:
    """Run a program of ours, quietly."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAILROOM_", "AWS_"))}
    with subprocess.Popen(
        [sys.executable, *command], env=kept | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as popen:
        try:
            yield psutil.Process(popen.pid)
        finally:
            popen.terminate()


def worker_environment(url: str, **more: str) -> dict[str, str]:
    """The environment of a worker that is measured: batches of 50, and no waiting for them to fill."""
    usual = {
        "MAILROOM_DATABASE_URL": url,
        "MAILROOM_SECRET_KEY": KEY_HEX,
        "MAILROOM_BATCH_LIMIT": "50",
        "MAILROOM_BATCH_TIMEOUT": "0",
        "MAILROOM_SES_BULK_RATE": "unlimited",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return usual | more


def wait_for(happens: Callable[[], bool], *alive: psutil.Process) -> None:
    """Look every 20 ms until it is so; raise if one of the processes ends before."""
    while not happens():
        for one in alive:
            if one.status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError(f"{one.cmdline()} has ended")
        threading.Event().wait(0.02)


def cpu_seconds(*processes: psutil.Process) -> float:
    """CPU time of processes so far, their children included."""
    spent = 0.0
    for one in processes:
        for each in (one, *one.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                spent += times.user + times.system
    return spent


def describe(engine: Engine) -> str:
    """Say what machine and versions these are."""
    with engine.connect() as connection:
        server = connection.scalar(text("SHOW server_version"))
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB, {platform.system()} {platform.release()};"
        f" Python {platform.python_version()}, PostgreSQL {server}, psycopg {psycopg.__version__}"
    )
