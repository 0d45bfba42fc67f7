"""The metrics that are promised are there; board and alerts name such, with labels and values that these have."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection

from mailroom.ops.forecast import forecast
from mailroom.window.fleet_metrics import FleetMetrics
from mailroom.window.source import Seen
from mailroom.worker.metrics import Metrics
from mailroom.worker.vitals import Vitals
from tests.machine import ROOT
from tests.ops.readings import NOW, PROBED, account, lane, paused, rates, reading
from tests.running import Scripted, eventually, refuse
from tests.worker.watched import get, watched
from tests.world import add_accounts

EACH_SERVER = False

FOLDER = ROOT / "examples" / "grafana"
# What Prometheus adds by itself.
ADDED = {"instance", "job", "le"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
# What a worker has to tell, and a window, by name, with the labels of each.
OF_WORKER = {
    "mailroom_mails_total": "action outcome",
    "mailroom_faults_total": "code",
    "mailroom_calls_total": "operation result",
    "mailroom_call_duration_seconds_bucket": "operation",
    "mailroom_wait_seconds_bucket": "action priority",
    "mailroom_claim_duration_seconds_bucket": "",
    "mailroom_settle_duration_seconds_bucket": "",
    "mailroom_batch_jobs_bucket": "action",
    "mailroom_wakeups_total": "by",
    "mailroom_rescued_mails_total": "",
    "mailroom_settle_retries_total": "",
    "mailroom_reconciled_total": "",
    "mailroom_permit_wait_seconds_total": "",
    "mailroom_senders": "",
    "mailroom_senders_busy": "",
    "mailroom_listening": "",
    "mailroom_backing_off": "",
    "mailroom_last_look_timestamp_seconds": "",
    "mailroom_build_info": "version revision",
}
OF_WINDOW = {
    "mailroom_jobs": "queue priority action state",
    "mailroom_jobs_estimate": "",
    "mailroom_oldest_due_seconds": "queue priority action",
    "mailroom_in_flight_jobs": "",
    "mailroom_in_flight_batches": "",
    "mailroom_overdue_batches": "",
    "mailroom_overdue_seconds": "",
    "mailroom_paused": "scope code",
    "mailroom_paused_since_timestamp_seconds": "scope",
    "mailroom_warning": "code",
    "mailroom_permits_granted": "bucket",
    "mailroom_rate_used": "",
    "mailroom_rate_limit": "bucket",
    "mailroom_slowdown_ratio": "bucket",
    "mailroom_quota_limit": "",
    "mailroom_quota_sent": "",
    "mailroom_ses_enforcement": "state",
    "mailroom_ses_account_timestamp_seconds": "",
    "mailroom_workers": "queue version",
    "mailroom_worker_seen_timestamp_seconds": "",
    "mailroom_dead_rows": "",
    "mailroom_oldest_transaction_seconds": "",
    "mailroom_unconfirmed_mails": "",
    "mailroom_sent_again_mails": "",
    "mailroom_bounce_ratio": "",
    "mailroom_complaint_ratio": "",
    "mailroom_reading_timestamp_seconds": "",
    "mailroom_reading_duration_seconds": "",
}
_NAME = re.compile(r"\bmailroom_\w+")
_MATCHERS = re.compile(r"(mailroom_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=|!=|=~|!~)"([^"]*)"')
_BY = re.compile(r"\bby \(([^)]*)\)")


def board() -> list[str]:
    panels = json.loads((FOLDER / "board.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def of_window() -> FleetMetrics:
    """What a window tells of a fleet in which everything happens at once."""
    told = reading(
        lanes=(lane(later=1, held=1),),
        pauses=(paused("account", "SendingPausedException", **PROBED),),
        account=account(enforcement="PROBATION"),
        warnings={"OldJob0": "late"},
        feedback=rates(0.02, 0.001),
        health=replace(reading().health, held_seconds=3.0),
    )
    return FleetMetrics(Seen(NOW, told, (), None, forecast(told, (), rate_limit=None, now=NOW)))


def metrics() -> Iterator[Metric]:
    """What a window and a worker tell."""
    yield from of_window().collect()
    vitals = Vitals()
    vitals.is_listening = lambda: True
    yield from Metrics(vitals).registry.collect()


@pytest.fixture(scope="module")
def known() -> dict[str, Metric]:
    return {f"{metric.name}{suffix}": metric for metric in metrics() for suffix in SUFFIXES.get(metric.type, ("",))}


def exposed(families: Iterable[Metric]) -> dict[str, set[str]]:
    """The names of all samples, each with its labels but for the bound of a histogram."""
    return {
        sample.name: {label for label in sample.labels if label != "le"}
        for family in families
        for sample in family.samples
    }


def test_a_worker_tells_all_that_is_promised_of_a_process(url: str, connection: Connection) -> None:
    sends = Scripted()
    sends.answers = [refuse]
    with watched(url, sends, listen=url) as worker:
        add_accounts(connection, 2)
        eventually(lambda: worker.value("mailroom_faults_total", code="MessageRejected") == 2, "they are counted")
        told = exposed(text_string_to_metric_families(get(worker.port, "/metrics")[1]))
    assert {name: told.get(name) for name in OF_WORKER} == {name: set(has.split()) for name, has in OF_WORKER.items()}


def test_a_window_tells_all_that_is_promised_of_a_fleet() -> None:
    told = exposed(of_window().collect())
    assert {name: told.get(name) for name in OF_WINDOW} == {name: set(has.split()) for name, has in OF_WINDOW.items()}


EXPRESSIONS = [*board(), *(rule["expr"] for rule in alerts())]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_it_names_metrics_that_there_are(known: dict[str, Metric], expression: str) -> None:
    named = set(_NAME.findall(expression))
    assert named
    assert named - known.keys() == set()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_it_asks_for_labels_that_these_have(known: dict[str, Metric], expression: str) -> None:
    """As far as there is a sample: the counters of a process that has sent nothing have none."""
    asked = {label.strip() for labels in _BY.findall(expression) for label in labels.split(",")}
    samples = [sample for name in _NAME.findall(expression) for sample in known[name].samples]
    if samples:
        assert asked - ADDED <= {label for sample in samples for label in sample.labels}
    for name, matchers in _MATCHERS.findall(expression):
        for label, operator, value in _MATCHER.findall(matchers):
            values = {sample.labels.get(label) for sample in known[name].samples}
            assert not values or operator != "=" or value in values, (name, label, values)


def test_there_are_six_alerts_each_with_what_to_do() -> None:
    found = alerts()
    assert len({rule["alert"] for rule in found}) == len(found) == 6
    for rule in found:
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_opened_is_closed(expression: str) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_panels_lie_beside_each_other() -> None:
    panels = json.loads((FOLDER / "board.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize(
    "expression", [each for each in EXPRESSIONS if "reading_timestamp" in each and "time()" in each]
)
def test_a_reading_that_is_ahead_of_the_clock_is_old(expression: str) -> None:
    """It was made before the clock was set back, and nothing says that anybody counts now."""
    assert "abs(time() - max(mailroom_reading_timestamp_seconds))" in expression


def test_a_window_that_counts_alone_does_not_look_like_a_fleet_that_works() -> None:
    """A window that may act counts where no worker does: that alone must not keep the alert from being raised."""
    [expression] = [rule["expr"] for rule in alerts() if rule["alert"] == "MailroomNobodyWorks"]
    assert "max(mailroom_worker_seen_timestamp_seconds)" in expression
    assert "absent(mailroom_worker_seen_timestamp_seconds)" in expression
    alone = FleetMetrics(Seen(NOW, reading(workers=()), (), None, {}))
    assert "mailroom_worker_seen_timestamp_seconds" not in exposed(alone.collect())
    gone = FleetMetrics(Seen(NOW, reading(seen=600), (), None, {}))
    [seen] = [each for each in gone.collect() if each.name == "mailroom_worker_seen_timestamp_seconds"]
    assert seen.samples[0].value == (NOW - timedelta(seconds=600)).timestamp()


def test_a_standing_that_nobody_knows_yet_is_told() -> None:
    """The alert is for all but HEALTHY."""
    strange = FleetMetrics(Seen(NOW, reading(account=account(enforcement="RESTRICTED")), (), None, {}))
    [told] = [each for each in strange.collect() if each.name == "mailroom_ses_enforcement"]
    assert {sample.labels["state"]: sample.value for sample in told.samples}["RESTRICTED"] == 1
