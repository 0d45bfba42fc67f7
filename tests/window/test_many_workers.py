"""What the first page and the metrics tell of more workers, or queues, than anybody reads."""

import pytest
from sqlalchemy import Engine, text

from mailroom.window.fleet_metrics import MAX_QUEUES, OTHER, FleetMetrics
from mailroom.window.overview import MAX_GONE, MAX_ROWS, overview
from mailroom.window.source import Seen
from tests.ops.readings import NOW, lane, reading, worker
from tests.window import scene
from tests.window.client import opened

EACH_SERVER = False
CRASHED = """
INSERT INTO workers (name, queue, version, started_at, seen_at, senders, busy, listening, feeding)
SELECT 'crashed-' || n, 'mailroom', '0', now(), now() - n * interval '1 min', 4, 0, true, false
  FROM generate_series(1, 1200) n
"""


@pytest.mark.slow
def test_workers_that_crash_again_and_again_do_not_bury_the_page(engine: Engine) -> None:
    scene.furnish(engine)
    with engine.connect() as connection:
        connection.execute(text(CRASHED))
    scene.count(engine)
    with opened(engine) as window:
        page = window.ask().text
    workers = page[page.index('id="workers"') :]
    assert workers.count('class="late"') == MAX_GONE
    assert "crashed-1<" in workers
    assert "and 996 others that went away without a word before" in workers
    assert len(page) < 50_000


def test_of_many_workers_all_are_counted_and_some_have_a_row() -> None:
    many = reading(workers=tuple(worker(name=f"web/{number}", busy=1) for number in range(200)))
    told = overview(Seen(NOW, many, (), None, {}), many)
    assert (told.working, told.busy, told.senders) == (200, 200, 800)
    assert (len(told.workers), told.other_workers) == (MAX_ROWS, 150)


def test_of_many_sweeps_from_cron_the_last_are_told() -> None:
    swept = reading(workers=tuple(worker(5 + number, name=f"cron/{number}", senders=0) for number in range(9)))
    told = overview(Seen(NOW, swept, (), None, {}), swept)
    assert [each.name for each in told.sweeps] == ["cron/0", "cron/1", "cron/2"]
    assert told.other_sweeps == 9 - MAX_GONE


def test_a_queue_that_a_worker_takes_keeps_its_name_in_the_metrics_however_many_others_there_are() -> None:
    lanes = tuple(lane(queue=f"a{number:02}") for number in range(MAX_QUEUES))
    found = reading(lanes=(*lanes, lane(queue="mailroom", due=7)))
    told = FleetMetrics(Seen(NOW, found, (), None, {})).collect()
    [jobs] = [metric for metric in told if metric.name == "mailroom_jobs"]
    due = {sample.labels["queue"]: sample.value for sample in jobs.samples if sample.labels["state"] == "due"}
    assert due["mailroom"] == 7
    assert due[OTHER] == 1
