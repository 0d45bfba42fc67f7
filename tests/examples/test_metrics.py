"""The board and the alerts name metrics that there are, with labels that these have, and values that those take."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

from mailroom.ops.forecast import forecast
from mailroom.window.fleet_metrics import FleetMetrics
from mailroom.window.source import Seen
from mailroom.worker.metrics import Metrics
from mailroom.worker.vitals import Vitals
from tests.machine import ROOT
from tests.ops.readings import NOW, PROBED, account, lane, paused, reading

FOLDER = ROOT / "examples" / "grafana"
# What Prometheus adds by itself.
ADDED = {"instance", "job", "le"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
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


def metrics() -> Iterator[Metric]:
    """What a window and a worker tell; the first of a fleet in which everything happens at once."""
    told = reading(
        lanes=(lane(later=1, held=1),),
        pauses=(paused("account", "SendingPausedException", **PROBED),),
        account=account(enforcement="PROBATION"),
        warnings={"OldJob0": "late"},
    )
    yield from FleetMetrics(Seen(NOW, told, (), None, forecast(told, (), rate_limit=None, now=NOW))).collect()
    vitals = Vitals()
    vitals.is_listening = lambda: True
    yield from Metrics(vitals).registry.collect()


@pytest.fixture(scope="module")
def known() -> dict[str, Metric]:
    return {f"{metric.name}{suffix}": metric for metric in metrics() for suffix in SUFFIXES.get(metric.type, ("",))}


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
