"""What the window says when something is wrong with what it stands on."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import connect_engine
from mailroom.fleet import buckets, pauses
from mailroom.ops import grants
from mailroom.window import source, views
from mailroom.window.application import FOR_PROGRAMS
from mailroom.window.fleet_metrics import MAX_QUEUES
from mailroom.window.source import Source
from tests.proxy import HalfOpenProxy
from tests.roles import a_role
from tests.running import eventually
from tests.servers import Server
from tests.window import scene
from tests.window.client import Window, opened
from tests.world import count

EACH_SERVER = False
PAGES = ["/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/doctor", "/reading.json"]
PAGES += ["/metrics", "/readyz", "/lane/mailroom/1/activation", "/mail/1"]
WAITING = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def viewer(server: Server, url: str, engine: Engine) -> Iterator[Engine]:
    """An engine of the role viewer, on a database in which much has happened."""
    scene.furnish(engine)
    with a_role(server) as (role, log_in):
        with engine.connect() as connection:
            grants.apply(connection, grants.statements(connection, "viewer", role))
        made = connect_engine(log_in(url), writes=False, pool_size=4)
        yield made
        made.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_the_role_viewer_is_enough_for_every_page(viewer: Engine, path: str) -> None:
    with opened(viewer) as window:
        assert window.ask(path).status == 200


def metrics(window: Window) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples that a scraper reads, by name and the values of its labels, in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(window.ask("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


@pytest.mark.slow
def test_metrics_are_those_of_the_reading(viewer: Engine) -> None:
    with opened(viewer) as window:
        found = metrics(window)
    assert found["mailroom_window_up"] == {(): 1.0}
    assert found["mailroom_in_flight_jobs"] == {(): 1.0}
    assert sum(jobs for labels, jobs in found["mailroom_jobs"].items() if labels[-1] == "held") == 1
    assert found["mailroom_jobs"]["activation", "normal", scene.QUEUE, "due"] == 1
    assert found["mailroom_paused"]["ByHand", "priority:2"] == 1
    assert found["mailroom_workers"] == {("mailroom", f"v{scene.CANARY}"): 1.0}
    assert found["mailroom_unconfirmed_mails"] == {(): 4.0}
    assert found["mailroom_sent_again_mails"] == {(): 2.0}
    assert set(found["mailroom_ses_enforcement"]) == {("HEALTHY",), ("PROBATION",), ("SHUTDOWN",)}
    assert found["mailroom_reading_timestamp_seconds"][()] > 1_700_000_000
    assert found["mailroom_permits_granted"].keys() == {("mails",), ("bulk_calls",)}


def test_what_goes_down_is_no_counter(engine: Engine) -> None:
    """A scraper takes it for one that began again, and all that there ever was for what came since."""
    told = []
    with engine.connect() as connection:
        granted = buckets.take(connection, buckets.Bucket.MAILS, 10, own_rate=100, urgent=True)
        for unused in (0, granted.count):
            buckets.return_unused(connection, buckets.Bucket.MAILS, granted, unused)
            scene.count(engine)
            with opened(engine) as window:
                told.append(window.ask("/metrics").text)
    first, then = (
        re.findall(r'^mailroom_permits_granted\w*{bucket="mails"} (.*)$', each, re.MULTILINE) for each in told
    )
    assert float(*first) > float(*then) == 0
    assert "# TYPE mailroom_permits_granted gauge" in told[0]


def test_what_is_paused_is_told_once_of_each_queue_and_of_the_others_together(engine: Engine) -> None:
    with engine.connect() as connection:
        for number in range(MAX_QUEUES + 3):
            pauses.open_pause(connection, f"queue:{number:03}", code="ByHand", reason="a test", probed=False)
    scene.count(engine)
    with opened(engine) as window:
        told = re.findall(r"^(mailroom_paused{.*}) ", window.ask("/metrics").text, re.MULTILINE)
    assert len(told) == len(set(told)) == MAX_QUEUES + 1
    assert 'mailroom_paused{code="ByHand",scope="queue:000"}' in told
    assert 'mailroom_paused{code="ByHand",scope="queue:other"}' in told


@pytest.mark.slow
def test_a_database_that_does_not_answer_is_the_first_thing_said(url: str, engine: Engine) -> None:
    scene.furnish(engine)
    with HalfOpenProxy(url) as proxy:
        through = connect_engine(proxy.url, writes=False, pool_size=4, answer_within=timedelta(seconds=1))
        with opened(through) as window:
            eventually(lambda: "password_recovery" in window.ask().text, "it was answered in time")
            proxy.freeze()
            eventually(lambda: window.ask("/readyz").status == 503)
            page = window.ask().text
            [heading] = re.findall(r"<h1[^>]*>(.*?)</h1>", page)
            # The other one is of a second look, which makes a new connection.
            failures = {"OutcomeUnknownError", "ConnectionTimeout"}
            cure = "see whether PostgreSQL runs and can be reached from here"
            assert heading in {f"The database does not answer ({failure}); {cure}." for failure in failures}
            assert "<code>mailroom doctor</code> says what it meets" in page
            assert "password_recovery" in page, "what was seen last is still there"
            assert (window.ask("/readyz").status, window.ask("/livez").status) == (503, 200)
            assert metrics(window)["mailroom_window_up"] == {(): 0.0}
            assert window.ask("/held").status == 503
            proxy.thaw()
            eventually(lambda: window.ask("/readyz").status == 200)
        through.dispose()


def test_many_tabs_on_a_database_that_hangs_keep_no_probe_waiting(url: str, engine: Engine) -> None:
    scene.furnish(engine)
    with HalfOpenProxy(url) as proxy, ThreadPoolExecutor(60) as tabs:
        slow = make_conninfo(proxy.url, connect_timeout=120)
        through = connect_engine(slow, writes=False, pool_size=4, answer_within=timedelta(seconds=120))
        with opened(through, free=FOR_PROGRAMS) as window:
            proxy.freeze()
            asked = [tabs.submit(window.ask) for _ in range(60)]
            try:
                answered = [window.ask("/livez").status for _ in range(20)]
                assert not any(each.done() for each in asked)
                assert answered == [200] * 20
            finally:
                proxy.part()
            assert {each.result().status for each in asked} == {200}
        through.dispose()


@pytest.mark.slow
def test_what_many_look_at_in_vain_keeps_nobody_from_the_first_page(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there while they look, for which they have long enough here."""
    monkeypatch.setattr(source, "ANSWER_WITHIN", timedelta(seconds=8))
    looking = connect_engine(url, writes=False, pool_size=3)
    locking = engine.execution_options(isolation_level="READ COMMITTED")
    with opened(looking) as window, ThreadPoolExecutor(12) as tabs, locking.begin() as connection:
        connection.execute(text("LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE"))
        asked = [tabs.submit(window.ask, "/record") for _ in range(12)]
        with engine.connect() as watching:
            eventually(lambda: count(watching, WAITING) == 2, "all that may look at once do")
        assert window.ask("/").status == 200
        assert not any(each.done() for each in asked)
        answers = [each.result() for each in asked]
    looking.dispose()
    assert {answer.status for answer in answers} == {503}
    said = "".join(answer.text for answer in answers)
    assert "The database took too long" in said
    assert "Too many look at once" in said


@pytest.mark.slow
def test_what_was_seen_before_a_database_went_away_grows_old(url: str, engine: Engine) -> None:
    scene.furnish(engine)
    with HalfOpenProxy(url) as proxy:
        through = connect_engine(proxy.url, writes=False, pool_size=2, answer_within=timedelta(seconds=1))
        with opened(through) as window:
            eventually(lambda: window.ask("/readyz").status == 200, "it was answered in time")
            seen = window.ask("/reading.json").json["now"]
            proxy.freeze()
            eventually(lambda: window.ask("/readyz").status == 503)
            first = window.ask("/reading.json").json["now"]
            eventually(lambda: window.ask("/reading.json").json["now"] > first)
        through.dispose()
    assert first > seen


@pytest.mark.slow
def test_of_an_action_without_an_answer_it_says_that_nobody_knows(url: str, engine: Engine) -> None:
    with HalfOpenProxy(url) as proxy:
        through = connect_engine(proxy.url, pool_size=2, answer_within=timedelta(seconds=10))
        with opened(engine, actions=through) as window:
            assert window.post("/act/pause", scope="activation", reason="a test").status == 200
            proxy.freeze()
            answer = window.post("/act/resume", scope="activation", reason="a test")
        through.dispose()
    assert answer.status == 503
    assert "it may have been done, or not" in answer.text


def test_of_an_error_only_its_class_is_told(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("DROP VIEW attempts"))
    with opened(engine) as window:
        answer = window.ask("/record")
    assert answer.status == 503
    assert "UndefinedTable" in answer.text or "UndefinedFunction" in answer.text
    assert "attempts" not in answer.text.split("<main")[1]


@pytest.mark.slow
def test_what_takes_too_long_is_given_up_and_said(engine: Engine) -> None:
    with pytest.raises(DBAPIError, match="statement timeout") as error, Source(engine).looking() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))
    assert views.database_words(error.value)[0] == "The database took too long to answer."
