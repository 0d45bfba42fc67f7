"""What systemd is told, over a socket as it has one."""

import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from mailroom import settings
from mailroom.simulator import Simulator
from mailroom.worker.systemd import Supervised, notify
from mailroom.worker.vitals import LOOK, SENDER, Vitals
from tests.running import Processes, eventually


class Heard:
    """What hears it, unless there is trouble."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.trouble = ""

    def __call__(self, state: str) -> str:
        if not self.trouble:
            self.states.append(state)
        return self.trouble


def told(vitals: Vitals, *moments: float, live: bool = True, watchdog: timedelta | None = None) -> list[str]:
    heard = Heard()
    supervised = Supervised(heard, vitals, lambda: live, watchdog=watchdog)
    for moment in moments:
        supervised.step(moment)
    return heard.states


def test_it_is_ready_once_it_has_started_and_stops_once() -> None:
    vitals = Vitals()
    assert told(vitals, 0, 1) == []
    vitals.is_started = True
    assert told(vitals, 0, 1)[0] == "READY=1"
    vitals.is_stopping = True
    assert [state for state in told(vitals, 0, 1, 2) if "STATUS" not in state] == ["READY=1", "STOPPING=1"]


def test_its_status_is_told_each_minute() -> None:
    vitals = Vitals()
    vitals.is_started, vitals.is_listening = True, lambda: False
    with vitals.watched(SENDER):
        states = told(vitals, 0, 59, 60, 61)
    assert states == ["READY=1", *["STATUS=1 of 1 senders busy, not listening"] * 2]


def test_a_watchdog_hears_of_it_at_half_its_time_and_only_while_it_is_live() -> None:
    vitals = Vitals()
    minutes = timedelta(seconds=120)
    assert told(vitals, 0, 1, 59, 60, 119, 120, watchdog=minutes) == ["WATCHDOG=1"] * 3
    assert told(vitals, 0, 1, 59, 60, 119, 120, watchdog=minutes, live=False) == []
    assert told(vitals, 0, 60, watchdog=None) == []


def test_watching_the_thread_that_tells_would_prove_nothing() -> None:
    """The threads that work are those that are watched."""
    vitals = Vitals()
    with vitals.watched(LOOK):
        assert vitals.senders == 0
        assert vitals.step_seconds(looks=True) >= 0


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_datagram_reaches_a_path_and_an_abstract_name(tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@mailroom-test-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0", 1) if kind == "abstract" else name)
        notify(name, "READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_a_socket_that_is_gone_or_full_is_trouble_and_no_error(tmp_path: Path) -> None:
    assert notify(str(tmp_path / "gone"), "STATUS=some words") == "No such file or directory"
    assert notify(str(tmp_path / ("long" * 50)), "READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "full"))
        assert any(notify(str(tmp_path / "full"), "WATCHDOG=1") for _ in range(10_000))


def test_what_could_not_be_told_is_told_once_it_can_be_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    vitals, heard = Vitals(), Heard()
    vitals.is_started = True
    supervised = Supervised(heard, vitals, lambda: True, watchdog=timedelta(seconds=120))
    heard.trouble = "Resource temporarily unavailable"
    for moment in (0, 0.5, 1):
        supervised.step(moment)
    assert [record.getMessage() for record in caplog.records] == [
        "systemd not told state=READY: Resource temporarily unavailable"
    ]
    heard.trouble = ""
    supervised.step(1.5)
    assert heard.states == ["READY=1", "WATCHDOG=1"]
    heard.trouble = "No such file or directory"
    supervised.step(61.5)
    heard.trouble = ""
    supervised.step(62)
    assert heard.states[2:] == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, None),
        ({"NOTIFY_SOCKET": "/run/x"}, settings.Supervisor("/run/x", None)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "120000000"}, settings.Supervisor("@x", timedelta(seconds=120))),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "many"}, settings.Supervisor("@x", None)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"}, settings.Supervisor("@x", None)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "18446744073709551615"}, settings.Supervisor("@x", None)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "9" * 5000}, settings.Supervisor("@x", None)),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, settings.Supervisor("@x", None)),
    ],
)
def test_the_environment_says_where_systemd_listens(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: settings.Supervisor | None
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings.supervisor() == found


@pytest.mark.slow
def test_a_worker_tells_all_of_it(url: str, simulator: Simulator, processes: Processes, tmp_path: Path) -> None:
    states: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        read = threading.Thread(target=lambda: states.extend(systemd.recv(200).decode() for _ in range(4)))
        read.start()
        worker = processes.start(
            "worker", url=url, simulator=simulator, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="120000000"
        )
        eventually(lambda: len(states) == 3, "it is ready, and alive")
        worker.signal(15)
        assert worker.wait() == 0
        read.join()
    assert sorted(state.partition("=")[0] for state in states) == ["READY", "STATUS", "STOPPING", "WATCHDOG"]
    assert states[-1] == "STOPPING=1"
