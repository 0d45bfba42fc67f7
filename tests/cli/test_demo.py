"""`demo`: all of it on one machine, and nothing of it left."""

import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailroom.simulator import Simulator
from tests.cli.command import MAILROOM, Ended, end, run, start
from tests.machine import ROOT, closed_port
from tests.running import eventually


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that other users can reach, as the server's does."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def leftovers(folder: Path) -> list[Path]:
    """Files in a folder, and processes that were started with it."""
    return [*folder.iterdir(), *processes(folder)]


def processes(folder: Path) -> list[Path]:
    """Processes that were started with a folder."""
    return [process for process in Path("/proc").glob("[0-9]*") if _names(process, folder)]


def children(pid: int) -> list[Path]:
    """The processes below a process that its guards watch."""

    def below(parent: int | str) -> list[str]:
        return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()

    return [Path("/proc") / below(guard)[0] for guard in below(pid)]


def _names(process: Path, folder: Path) -> bool:
    with contextlib.suppress(OSError):  # gone meanwhile
        return str(folder).encode() in (process / "cmdline").read_bytes()
    return False


def without_numbers(line: str) -> str:
    return re.sub(r"\d[\d.]*", "N", line)


@pytest.mark.slow
@pytest.mark.early
def test_it_shows_every_mail_and_ends(temporary: Path) -> None:
    ended = run([*MAILROOM, "demo", "--exit", "--accounts", "5"], env={"TMPDIR": str(temporary)})
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    shown = [line.split()[0] for line in lines if "@example.com" in line]
    assert set(shown) == {f"user{n}@example.com" for n in range(1, 6)}
    assert sorted(Counter(shown).values()) == [1, 1, 2, 2, 2]  # three of them recover
    [summary] = [line for line in lines if line.startswith("requests to SES: ")]
    assert re.fullmatch(r"requests to SES: [3-9], mails accepted: 9, sent twice: 0", summary)  # as they fell together
    assert "5 accounts sign up, in one INSERT:" in lines
    assert "\\n" not in ended.out  # `say` shows a line end within a line as its escape
    assert "accounts active: 3" in lines
    assert [line.split()[1:] for line in lines if "bounce@simulator.example" in line] == [
        ["Activate", "your", "account"],
        ["bounced"],
        ["suppressed,", "SuppressedBounce"],
    ]
    readme = (ROOT / "README.md").read_text().partition("$ make demo")[2].partition("```")[0].splitlines()[1:]
    assert {without_numbers(line) for line in readme if line.strip() != "…"} <= set(map(without_numbers, lines))
    assert not lines[-1].startswith("inbox")  # it is gone by then
    assert "Traceback" not in ended.err
    assert leftovers(temporary) == []


@pytest.mark.slow
def test_what_this_shell_is_set_up_for_keeps_it_from_nothing(temporary: Path, tmp_path: Path) -> None:
    """A server that demands TLS, a proxy of the company, a configuration of AWS that no other endpoint goes with."""
    config = tmp_path / ".aws" / "config"
    config.parent.mkdir()
    config.write_text("[default]\nuse_fips_endpoint = true\ncredential_process = false\n")
    shell = {
        "PGSSLMODE": "verify-full",
        "PGSERVICE": "elsewhere",
        "PGHOSTADDR": "192.0.2.1",
        "PGTZ": "nowhere",
        "PGOPTIONS": "-c default_transaction_read_only=on -c search_path=nowhere",
        **{name: f"http://127.0.0.1:{closed_port()}" for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY")},
    }
    ended = run(
        [*MAILROOM, "demo", "--exit", "--accounts", "1"],
        env={"TMPDIR": str(temporary), "HOME": str(tmp_path), **shell},
    )
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_it_ends_by_a_signal_and_leaves_nothing(temporary: Path, number: signal.Signals) -> None:
    with start("demo", "--accounts", "1", env={"TMPDIR": str(temporary)}, start_new_session=True) as demo:
        assert demo.stdout is not None
        lines = list(iter(demo.stdout.readline, "press Ctrl-C to end\n"))
        assert lines[-1].startswith("inbox: http://127.0.0.1:")
        assert leftovers(temporary)
        # A terminal's Ctrl-C is for all of its processes; a service manager's SIGTERM for one.
        (os.killpg if number == signal.SIGINT else os.kill)(demo.pid, number)
        ended = end(demo)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert leftovers(temporary) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("starting PostgreSQL", signal.SIGHUP),
        ("migrating", signal.SIGTERM),
        ("starting `mailroom worker", signal.SIGQUIT),
        ("sign up", signal.SIGHUP),
    ],
)
def test_a_signal_in_its_midst_leaves_nothing(temporary: Path, words: str, number: signal.Signals) -> None:
    with start("demo", "--accounts", "10000", env={"TMPDIR": str(temporary)}, start_new_session=True) as demo:
        assert demo.stdout is not None
        assert any(words in line for line in iter(demo.stdout.readline, ""))
        demo.send_signal(number)
        ended = end(demo)
    assert ended.code != 0
    assert "Traceback" not in ended.err
    assert leftovers(temporary) == []


@pytest.mark.slow
def test_a_demo_that_is_killed_leaves_nothing_running(temporary: Path) -> None:
    with start("demo", "--accounts", "1", env={"TMPDIR": str(temporary)}) as demo:
        assert demo.stdout is not None
        assert any(line == "press Ctrl-C to end\n" for line in iter(demo.stdout.readline, ""))
        worker, server = children(demo.pid)
        demo.kill()
    for process in (worker, server):
        eventually(lambda: not process.exists())  # noqa: B023 - called at once
    eventually(lambda: not processes(temporary), "what is deleted after them is deleted")


@pytest.mark.slow
def test_a_port_that_is_taken(temporary: Path, ses: Simulator) -> None:
    port = ses.url.rpartition(":")[2]
    ended = run([*MAILROOM, "demo", "--exit", "--port", port], env={"TMPDIR": str(temporary)})
    Ended(ended.code, "", ended.err).assert_one_line(2, "cannot listen", port, "in use")
    assert leftovers(temporary) == []
