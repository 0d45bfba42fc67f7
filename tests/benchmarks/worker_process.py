"""`mailroom worker` itself, as an operator runs it, and the SES simulator that it sends to, as processes."""

import contextlib
import json
import urllib.request
from collections.abc import Iterator

from mailroom.demo.postgres import free_port
from tests.benchmarks.machine import Program, Server
from tests.world import KEY_HEX


@contextlib.contextmanager
def simulator(*, call_ms: int = 0, events: bool = False) -> Iterator[tuple[Program, str]]:
    """Run the simulator; give the process and its URL. It remembers a thousand mails alone.

    `call_ms`: how long it lets each call wait for its answer. With `events` it tells what becomes of mails.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ("--port", str(port), "--config-set", "default", "--ledger-limit", "1000")
    with Program("-m", "mailroom", "simulator", *options, *(["--events"] if events else [])) as program:
        program.wait_for(lambda: _answers(port))
        if call_ms:
            _make_slow(url, call_ms)
        yield program, url


@contextlib.contextmanager
def worker(server: Server, database: str, *, ses_url: str, senders: int, **settings: str) -> Iterator[Program]:
    """Run a worker, and give it once it works: batches of 50, and no waiting for them to fill."""
    environment = {
        "MAILROOM_DATABASE_URL": server.postgres.url(database),
        "MAILROOM_SECRET_KEY": KEY_HEX,
        "MAILROOM_BATCH_LIMIT": "50",
        "MAILROOM_BATCH_TIMEOUT": "0",
        "MAILROOM_SES_BULK_RATE": "unlimited",
        **aws(ses_url),
    }
    with Program("-m", "mailroom", "worker", "--concurrency", str(senders), **(environment | settings)) as program:
        program.await_words("worker started")
        yield program


def aws(ses_url: str) -> dict[str, str]:
    """The environment that makes boto3 talk to a simulator."""
    return {
        "AWS_ENDPOINT_URL_SESV2": ses_url,
        "AWS_ENDPOINT_URL_SQS": ses_url,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _make_slow(url: str, call_ms: int) -> None:
    slow = json.dumps([{"latency_ms": call_ms, "times": None}]).encode()
    asked = urllib.request.Request(f"{url}/_simulator/faults", slow, {"Content-Type": "application/json"})  # noqa: S310 - ours
    with urllib.request.urlopen(asked) as answer:  # noqa: S310 - ours
        assert answer.status == 204


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_simulator/counts") as answer:
            return "requests" in json.load(answer)
    except OSError:
        return False
