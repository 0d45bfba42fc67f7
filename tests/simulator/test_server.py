"""The server: loopback only, quick to stop whatever hangs, and careful with connections."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from mailroom.errors import SettingsError
from mailroom.simulator import Fault, Simulator
from tests.cli.command import killed_after
from tests.simulator.client import PATIENCE_SECONDS, ask

GET_ACCOUNT = b"GET /v2/email/account HTTP/1.1\r\nHost: localhost\r\n\r\n"
SERVE = "from mailroom.simulator import serve; serve('127.0.0.1', 0, ready=lambda ses: print(ses.url, flush=True))"


def address(ses: Simulator) -> tuple[str, int]:
    place = urlsplit(ses.url)
    return str(place.hostname), int(place.port or 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104
def test_only_loopback_addresses_are_bound(host: str) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        Simulator(host=host)


def test_any_address_is_bound_if_one_insists() -> None:
    with Simulator(host="0.0.0.0", allow_remote=True) as ses:  # noqa: S104
        assert ask(f"http://127.0.0.1:{address(ses)[1]}/_simulator/counts").status == 200


def test_a_port_that_is_taken_is_a_wrong_setting(ses: Simulator) -> None:
    with pytest.raises(SettingsError, match="in use"):
        Simulator(port=address(ses)[1])


@pytest.mark.alone
@pytest.mark.parametrize(
    "fault",
    [Fault(before="hang"), Fault(accept_then="hang"), Fault(latency_ms=60_000)],
    ids=["before", "after", "late"],
)
def test_a_stopping_server_waits_for_nothing_that_hangs(fault: Fault) -> None:
    with Simulator() as ses, socket.create_connection(address(ses), timeout=PATIENCE_SECONDS) as connection:
        ses.faults.add(fault)
        connection.sendall(GET_ACCOUNT)
        while not ses.ledger.requests:
            ask(f"{ses.url}/_simulator/counts")
        ses.__exit__(None, None, None)
        began = time.monotonic()
        assert connection.recv(1) == b""
    assert time.monotonic() - began < 2


def test_a_connection_is_kept_for_many_answers(ses: Simulator) -> None:
    ports = set()
    with contextlib.closing(HTTPConnection(*address(ses), timeout=PATIENCE_SECONDS)) as connection:
        for _ in range(3):
            connection.request("GET", "/v2/email/account")
            connection.getresponse().read()
            ports.add(connection.sock.getsockname()[1])
    assert len(ports) == 1


def test_a_client_that_leaves_in_the_middle_of_its_request_does_no_harm(ses: Simulator) -> None:
    with socket.create_connection(address(ses), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"POST /v2/email/outbound-emails HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    assert ask(f"{ses.url}/v2/email/account").status == 200
    assert [request.operation for request in ses.ledger.requests] == ["GetAccount"]


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_well_and_silently_at_a_signal(signal_number: signal.Signals) -> None:
    serving = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with serving, killed_after(serving) as process:
        assert process.stdout is not None
        assert ask(f"{process.stdout.readline().strip()}/").status == 200
        process.send_signal(signal_number)
        assert process.communicate(timeout=PATIENCE_SECONDS) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_number_in_a_path_that_is_none_is_not_there(ses: Simulator, method: str) -> None:
    with contextlib.closing(HTTPConnection(*address(ses), timeout=PATIENCE_SECONDS)) as connection:
        connection.request(method, f"/{'9' * 5_000}/events", "{}", {"Content-Type": "application/x-amz-json-1.0"})
        assert connection.getresponse().status == 404
