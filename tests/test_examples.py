"""The examples for systemd, Kubernetes and KEDA are of what there is: options, settings, paths, rights, and plans."""

import configparser
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from sqlalchemy import Engine, text
from typer.main import get_command

from mailroom.cli.app import command_line
from mailroom.mail.transport import MAX_CALL_TIME
from mailroom.ops import grants
from mailroom.settings import Settings, variable
from mailroom.worker import probes
from tests.machine import ROOT
from tests.roles import a_role
from tests.servers import Server
from tests.world import add_accounts, execute

EACH_SERVER = False

EXAMPLES = ROOT / "examples"
UNITS = sorted((EXAMPLES / "systemd").glob("*.service"))
COMMANDS: Any = get_command(command_line(()))


def unit(path: Path) -> dict[str, str]:
    """The settings of a unit's service."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # as the documentation has it
    parser.read_string(path.read_text())
    return dict(parser["Service"])


def manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text()))


def containers() -> list[dict[str, Any]]:
    deployment, cron = manifests("worker.yaml")
    specs = (deployment["spec"], cron["spec"]["jobTemplate"]["spec"])
    return [container for spec in specs for container in spec["template"]["spec"]["containers"]]


def exists(command: list[str]) -> None:
    """Whether a command line is one that mailroom takes."""
    name, *rest = command
    known = {option for parameter in COMMANDS.commands[name].params for option in parameter.opts}
    for word in rest:
        assert not word.startswith("--") or word in known, word


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_there_is(path: Path) -> None:
    program, *command = shlex.split(unit(path)["ExecStart"])
    assert program.endswith("/mailroom")
    exists(command)


def test_the_unit_of_a_worker_means_what_its_watchdog_says() -> None:
    service = unit(EXAMPLES / "systemd" / "mailroom-worker@.service")
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == "2"
    assert timedelta(seconds=int(service["TimeoutStopSec"])) > MAX_CALL_TIME
    assert "AF_UNIX" in service["RestrictAddressFamilies"], "or systemd would hear nothing"
    limits = probes.bounds(
        lease=timedelta(seconds=30), answer_within=timedelta(seconds=20), sweep_interval=timedelta(seconds=5)
    )
    assert limits.step < timedelta(seconds=int(service["WatchdogSec"]))


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_a_container_runs_a_command_with_settings_that_there_are(container: dict[str, Any]) -> None:
    exists(container["args"])
    known = {variable(name) for name in Settings.model_fields}
    assert {one["name"] for one in container.get("env", [])} <= known
    given = {one["name"].removeprefix("MAILROOM_").lower(): one["value"] for one in container.get("env", [])}
    Settings(**given)


def test_the_probes_of_a_pod_are_those_that_are_served() -> None:
    deployment, cron = manifests("worker.yaml")
    pod = deployment["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    assert worker["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "probes"}
    assert worker["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "probes"}
    [address] = [one["value"] for one in worker["env"] if one["name"] == "MAILROOM_PROBE_ADDRESS"]
    assert worker["ports"] == [{"name": "probes", "containerPort": int(address.rpartition(":")[2])}]
    assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"] == "/metrics"
    for spec in (pod, cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]):
        assert timedelta(seconds=spec["terminationGracePeriodSeconds"]) > MAX_CALL_TIME


def test_keda_counts_what_is_due_and_not_paused_as_a_viewer(server: Server, url: str, engine: Engine) -> None:
    [trigger] = manifests("keda.yaml")[1]["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    with a_role(server) as (role, log_in), engine.connect() as connection:
        for statement in grants.statements(connection, "viewer", role):
            connection.execute(text(statement.replace(":", r"\:")))
        add_accounts(connection, 7)
        add_accounts(connection, 100, prefix="bulk")
        with psycopg.connect(log_in(url), autocommit=True) as viewer:

            def counted() -> int:
                [found] = viewer.execute(query).fetchone() or (None,)
                return int(found)

            assert counted() == 107
            execute(engine, "UPDATE jobs SET due_at = 'infinity' WHERE token = (SELECT min(token) FROM jobs)")
            assert counted() == 106
            for scope, left in (("priority:2", 6), ("activation", 0), ("account", 0), ("queue:other", 106)):
                execute(
                    engine,
                    f"INSERT INTO pauses (scope, code, reason) VALUES ('{scope}', 'Test', 'a test')",  # noqa: S608
                )
                assert counted() == left, scope
                execute(engine, "DELETE FROM pauses")


def test_keda_counts_what_has_a_sender_of_its_own_where_the_sender_of_all_others_is_paused(engine: Engine) -> None:
    query = manifests("keda.yaml")[1]["spec"]["triggers"][0]["metadata"]["query"]
    execute(engine, "INSERT INTO pauses (scope, code, reason) VALUES ('identity', 'Test', 'a test')")
    with engine.connect() as connection:
        add_accounts(connection, 3)
        assert connection.scalar(text(query)) == 0
        execute(engine, "UPDATE actions SET reply_to = 'help@example.com' WHERE name = 'activation'")
        assert connection.scalar(text(query)) == 0
        execute(engine, "UPDATE actions SET source = 'shop@example.com' WHERE name = 'activation'")
        assert connection.scalar(text(query)) == 3


def test_keda_counts_no_further_than_it_has_to(engine: Engine) -> None:
    """What it asks for each lane is a function whose plan is pinned."""
    query = manifests("keda.yaml")[1]["spec"]["triggers"][0]["metadata"]["query"]
    with engine.connect() as connection:
        add_accounts(connection, 3_000)
        assert connection.scalar(text(query)) == 2_000


def test_keda_takes_quarantine_for_what_workers_take_it(engine: Engine) -> None:
    """It is as urgent as its action, but no bulk."""
    query = manifests("keda.yaml")[1]["spec"]["triggers"][0]["metadata"]["query"]
    with engine.connect() as connection:
        add_accounts(connection, 3)
        connection.execute(text("UPDATE jobs SET priority = 3"))
        for scope, left in (("priority:2", 3), ("priority:1", 0), ("priority:0", 3)):
            connection.execute(
                text("INSERT INTO pauses (scope, code, reason) VALUES (:scope, 'Test', 'a test')"), {"scope": scope}
            )
            assert connection.scalar(text(query)) == left, scope
            connection.execute(text("DELETE FROM pauses"))
