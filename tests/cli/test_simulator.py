"""`simulator`: an SES for people, with its inbox in a real browser."""

import shutil
import signal
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mailroom.simulator import Simulator
from tests.cli.command import NO_AWS, end, run, sending, start
from tests.cli.conftest import Here
from tests.machine import closed_port, missing
from tests.simulator.client import connect, single
from tests.simulator.queue import connect_queue, take

CHROMIUM = shutil.which("chromium")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *QUIET]
LOGIN = "Ada <script>document.title = 'owned'</script>"


def dump(page: str, profile: Path) -> str:
    """What a browser makes of a page, its scripts run."""
    assert CHROMIUM is not None
    ended = run([CHROMIUM, *HEADLESS, f"--user-data-dir={profile}", "--dump-dom", page], env={"HOME": str(profile)})
    assert ended.code == 0, ended.err
    return ended.out


@pytest.mark.slow
def test_a_browser_shows_the_mail_of_a_worker(
    here: Here, ses: Simulator, url: str, engine: Engine, tmp_path: Path
) -> None:
    if CHROMIUM is None:
        missing("chromium")
    with engine.connect() as connection:
        connection.execute(
            text("INSERT INTO accounts (email, login) VALUES ('ada@example.com', :login)"), {"login": LOGIN}
        )
    with start("simulator", "--port", "0", "--config-set", "default", env={}) as simulator:
        assert simulator.stdout is not None
        said = simulator.stdout.readline()
        place = said.split()[-1].removesuffix("/")
        assert said == f"the SES simulator listens at {place}; its inbox is at {place}/\n"
        assert here("sweep", env=sending(url, ses) | {"AWS_ENDPOINT_URL_SESV2": place}).code == 0

        inbox = dump(f"{place}/", tmp_path)
        assert "<title>Inbox" in inbox
        assert "ada@example.com" in inbox
        assert '<dd id="mails">1</dd>' in inbox
        mail = dump(place + inbox.partition('<a href="')[2].partition('"')[0], tmp_path)
        assert "Ada &lt;script&gt;" in mail
        assert "owned</title>" not in mail

        simulator.send_signal(signal.SIGTERM)
        ended = end(simulator)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.slow
def test_it_says_where_the_events_are_if_it_is_to_publish_them() -> None:
    with start("simulator", "--port", "0", "--config-set", "mine", "--events", env={}) as simulator:
        assert simulator.stdout is not None
        place = simulator.stdout.readline().split()[-1].removesuffix("/")
        said = simulator.stdout.readline()
        assert said == f"its events are in the queue {place}/123456789012/mailroom-events\n"
        connect(place).send_email(**single(ConfigurationSetName="mine"))
        assert take(connect_queue(place), said.split()[-1], wait=20) != []
        simulator.send_signal(signal.SIGTERM)
        assert end(simulator).code == 0


def test_events_are_those_of_a_configuration_set(here: Here) -> None:
    here("simulator", "--events", env=NO_AWS).assert_one_line(2, "--events", "--config-set")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])  # noqa: S104 - to be refused
def test_other_machines_are_kept_out(here: Here, host: str) -> None:
    here("simulator", "--host", host, env=NO_AWS).assert_one_line(2, "loopback", host)


def test_a_port_that_is_taken(here: Here, ses: Simulator) -> None:
    port = ses.url.rpartition(":")[2]
    here("simulator", "--port", port, env=NO_AWS).assert_one_line(2, "cannot listen", port, "in use")


def test_a_host_that_does_not_exist(here: Here) -> None:
    port = str(closed_port())
    here("simulator", "--host", "no.such.host.invalid", "--port", port, env=NO_AWS).assert_one_line(2, "cannot listen")
