"""A filter between here and SES that refuses one mail, or large requests, or all: it stops no other mail."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import ses
from mailroom.simulator import Simulator
from mailroom.worker.sweep import sweep
from tests import running
from tests.running import eventually, transport, working
from tests.world import add_accounts, count, drained, misplaced, rows

Refuses = Callable[[bytes], int | None]


class Filter:
    """Leads to a simulator, but for requests that it `refuses`: it answers these with a status and a page."""

    def __init__(self, simulator: Simulator, refuses: Refuses) -> None:
        self.refuses = refuses
        self.refused = 0
        target = urlsplit(simulator.url).netloc
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.refuses(body)
                if status is None:
                    passed = http.client.HTTPConnection(target)
                    passed.request("POST", self.path, body, dict(self.headers))
                    answer = passed.getresponse()
                    self.reply(answer.status, answer.read(), dict(answer.headers))
                    passed.close()
                else:
                    outer.refused += 1
                    self.reply(status, b"<html>Your request was blocked</html>", {"Content-Type": "text/html"})

            def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    if name.lower() not in {"transfer-encoding", "connection"}:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def filtering(simulator: Simulator, refuses: Refuses) -> Iterator[Filter]:
    between = Filter(simulator, refuses)
    thread = threading.Thread(target=between.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield between
    finally:
        between.server.shutdown()
        thread.join()
        between.server.server_close()


def through(between: Filter, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> ses.SesTransport:
    transport(simulator, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SESV2", between.url)
    return ses.SesTransport(ses.connect(region=None, connections=8), source="noreply@example.com", config_set="default")


def poison(body: bytes) -> int | None:
    return 403 if b"poison" in body else None


def sign_up_with_poison(connection: Connection, *, before: int, after: int) -> None:
    add_accounts(connection, before, prefix="before")
    add_accounts(connection, 1, prefix="poison")
    add_accounts(connection, after, prefix="after")


def hasten(connection: Connection) -> None:
    connection.execute(text("UPDATE jobs SET due_at = now() WHERE due_at > now()"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0, 30), (15, 15), (30, 0)])
def test_a_mail_that_a_filter_refuses_stops_none_beside_it(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    with engine.connect() as connection, filtering(simulator, poison) as between:
        sign_up_with_poison(connection, before=before, after=after)
        sends = through(between, simulator, monkeypatch)
        with working(engine, sends, sweep_interval=0.1, batch_limit=50):
            eventually(lambda: simulator.ledger.counts().mails == 30, "the others leave", seconds=15)
        assert count(connection, "jobs WHERE attempt = 0") == 1
        assert simulator.ledger.duplicates() == {}
        assert misplaced(connection) == []


@pytest.mark.slow
def test_it_ends_as_failed_once_others_were_accepted_after_it_again_and_again(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection, filtering(simulator, poison) as between:
        sign_up_with_poison(connection, before=1, after=1)
        sends = through(between, simulator, monkeypatch)
        with working(engine, sends, sweep_interval=0.1):
            for number in range(60):
                hasten(connection)
                add_accounts(connection, 1, prefix=f"n{number}n")
                eventually(lambda: simulator.ledger.counts().mails == 3 + number, "it is sent")  # noqa: B023
                if drained(connection):
                    break
            eventually(lambda: drained(connection), "it is over")
        ended = rows(connection, "SELECT error_code, attempt FROM deliveries WHERE outcome = 'failed'")
        assert [tuple(row) for row in ended] == [("403", 5)]
        assert misplaced(connection) == []


@pytest.mark.slow
def test_a_way_that_is_closed_to_all_costs_no_mail_anything_and_few_calls(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as connection, filtering(simulator, lambda _: 403) as between:
        add_accounts(connection, 50)
        sends = through(between, simulator, monkeypatch)
        with working(engine, sends, sweep_interval=0.1, batch_limit=50) as worker:
            eventually(lambda: worker._shared.breaker.is_open, "it backs off")
            assert between.refused <= 30
            assert count(connection, "deliveries WHERE outcome <> 'deferred'") == 0
            between.refuses = lambda _: None
            eventually(lambda: drained(connection), "all is sent once it is open")
        assert count(connection, "deliveries WHERE outcome = 'sent' AND attempt = 0") == 50


@pytest.mark.slow
def test_requests_that_are_too_large_for_a_filter_are_sent_in_parts(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        engine.connect() as connection,
        filtering(simulator, lambda body: 413 if len(body) > 10_000 else None) as between,
    ):
        add_accounts(connection, 50)
        sends = through(between, simulator, monkeypatch)
        with working(engine, sends, sweep_interval=0.1, batch_limit=50):
            eventually(lambda: drained(connection), "all is sent", seconds=15)
        assert between.refused > 0
        assert count(connection, "deliveries WHERE outcome <> 'sent'") == 0


@pytest.mark.slow
def test_sweeps_of_cron_get_past_it(engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.connect() as connection, filtering(simulator, poison) as between:
        sign_up_with_poison(connection, before=0, after=0)
        sends = through(between, simulator, monkeypatch)
        for number in range(20):
            hasten(connection)
            add_accounts(connection, 1, prefix=f"n{number}n")
            connection.execute(text("UPDATE jobs SET priority = 2 WHERE token <> 1"))  # in a lane behind it
            for _ in range(2):
                sweep(running.shared(engine, sends), name="test", max_time=timedelta(seconds=10))
                hasten(connection)
            if drained(connection):
                break
        assert drained(connection)
        assert count(connection, "deliveries WHERE outcome = 'failed' AND error_code = '403'") == 1
