"""`window`: served on this machine, with the rights of each database that it is given."""

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.command import end, killed_after, run, start
from tests.cli.conftest import Here
from tests.servers import Server
from tests.window.client import Window, basic

PASSWORD = "twelve letters and more"


@contextmanager
def served(url: str, *arguments: str, **env: str) -> Iterator[Window]:
    """A window as a process of its own, which ends well when it is asked to."""
    started = start("window", "--port", "0", *arguments, env={"MAILROOM_DATABASE_URL": url, **env})
    with killed_after(started) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(r"the window is at (http://127\.0\.0\.1:[0-9]+/)\n", said)
        assert found, said or end(process)
        yield Window(found[1])
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    assert (ended.code, ended.out) == (0, "")


@pytest.mark.slow
def test_it_only_looks_unless_it_is_given_a_database_to_act_in(url: str) -> None:
    with served(url) as window:
        assert "who may look." in window.ask().text
        assert window.post("/act/pause", scope="activation", reason="a test").status == 403
        assert window.ask(headers={"Host": "evil.example"}).status == 400


@pytest.mark.slow
def test_it_acts_where_it_may_and_examines_the_database(url: str) -> None:
    with served(url, "--name", "mail.example", MAILROOM_WINDOW_ACTIONS_DATABASE_URL=url) as window:
        assert "who may look and act." in window.ask(headers={"Host": "mail.example"}).text
        assert window.post("/act/pause", scope="activation", reason="a test").status == 200
        assert "<option selected>activation<" in window.ask("/act/resume?scope=activation").text
        shown = window.post("/doctor").text
    assert "a notification to oneself arrives" in shown


@pytest.mark.slow
def test_it_does_not_look_at_one_database_and_act_in_another(here: Here, server: Server, url: str) -> None:
    """A token has the same number there, and is somebody else's."""
    with server.database("other", of=server.template) as name:
        env = {"MAILROOM_DATABASE_URL": url, "MAILROOM_WINDOW_ACTIONS_DATABASE_URL": server.database_url(name)}
        ended = here("window", "--port", "0", env=env)
    ended.assert_one_line(
        2, "MAILROOM_WINDOW_ACTIONS_DATABASE_URL leads to another database than MAILROOM_DATABASE_URL"
    )


@pytest.mark.slow
def test_it_asks_for_the_password_but_for_what_programs_ask(url: str) -> None:
    with served(url, MAILROOM_WINDOW_PASSWORD=PASSWORD) as window:
        assert [window.ask(path).status for path in ("/", "/metrics", "/livez", "/readyz")] == [401, 200, 200, 200]
        assert window.ask(headers=basic("ada", PASSWORD)).status == 200


@pytest.mark.slow
def test_with_a_password_a_proxy_may_say_where_somebody_is(url: str) -> None:
    with served(url, "--trust-peer", "127.0.0.1", MAILROOM_WINDOW_PASSWORD=PASSWORD) as window:
        eve, ada = {"X-Forwarded-For": "198.51.100.7"}, {"X-Forwarded-For": "198.51.100.8"}
        wrong = [window.ask(headers=basic("eve", "wrong") | eve).status for _ in range(9)]
        assert wrong == [401] * 8 + [429]
        assert window.ask(headers=basic("ada", PASSWORD) | ada).status == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "loopback addresses only"),  # noqa: S104 - it is refused
        (["--host", "0.0.0.0", "--allow-remote"], "needs a login"),  # noqa: S104 - the same
        (["--trust-header", "X-Remote-User"], "go together"),
        (["--trust-peer", "127.0.0.1"], "go together"),
        (["--trust-header", "X-Remote-User", "--trust-peer", "proxy"], "--trust-peer"),
        (["--trust-header", "X-Remote-User:", "--trust-peer", "127.0.0.1"], "no name of a header"),
        (["--trust-header", "X-U\u017cytkownik", "--trust-peer", "127.0.0.1"], "no name of a header"),
        (["--trust-header", "X\r\nUser", "--trust-peer", "127.0.0.1"], "no name of a header"),
        (["--name", "https://mail.example"], "without a scheme"),
        (["--name", "mail.example:8443"], "without a scheme"),
    ],
)
def test_what_would_let_anybody_in_is_refused(here: Here, url: str, arguments: list[str], words: str) -> None:
    ended = here("window", *arguments, env={"MAILROOM_DATABASE_URL": url})
    ended.assert_one_line(2, words)


def test_a_short_password_is_none(here: Here, url: str) -> None:
    env = {"MAILROOM_DATABASE_URL": url, "MAILROOM_WINDOW_PASSWORD": "hunter2"}
    ended = here("window", env=env)
    ended.assert_one_line(2, "MAILROOM_WINDOW_PASSWORD", "at least 12 characters")
    assert "hunter2" not in ended.err


@pytest.mark.slow
def test_without_its_extra_it_says_what_is_missing(url: str) -> None:
    code = "import sys; sys.modules['starlette'] = None; sys.argv = ['mailroom', 'window'];"
    code += " from mailroom.__main__ import main; main()"
    ended = run([sys.executable, "-c", code], env={"MAILROOM_DATABASE_URL": url})
    ended.assert_one_line(1, "extra `window`")
