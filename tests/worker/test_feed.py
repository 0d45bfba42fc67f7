"""The feed: from an SQS that is not ours (moto) into the record, whatever the queue, the database or an event does."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, text

from mailroom.errors import FeedError
from mailroom.event import Event
from mailroom.mail.event_source import Received
from mailroom.queue import events
from mailroom.queue.events import Absorbed
from mailroom.ses.event_queue import EventQueue
from mailroom.worker import absorbing, feed
from mailroom.worker.feed import Feed
from tests import sqs
from tests.proxy import HalfOpenProxy
from tests.running import PATIENCE_SECONDS, connecting, eventually
from tests.ses.events import event, wrapped
from tests.world import rows, transaction


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with sqs.running() as url:
        yield url


@pytest.fixture
def queue(endpoint: str) -> sqs.Queue:
    return sqs.Queue(endpoint)


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_WAIT", timedelta(seconds=1))
    monkeypatch.setattr(feed, "MAX_STOP", timedelta(minutes=1))  # however busy the machine is
    for module in (feed, absorbing):
        monkeypatch.setattr(module, "FIRST_REST", timedelta(milliseconds=20))
        monkeypatch.setattr(module, "MAX_REST", timedelta(milliseconds=100))


class Counting:
    """The queue itself, what is asked of it, who has received something, and the newest handle of each message."""

    def __init__(self, source: EventQueue) -> None:
        self.most = source.most
        self.asked: list[str] = []
        self.readers: set[int] = set()
        self.handles: dict[str, str] = {}
        self._source = source

    def receive(self, *, wait: timedelta) -> Sequence[Received]:
        self.asked.append("receive")
        found = self._source.receive(wait=wait)
        self.handles |= {each.holds.message_id: each.handle for each in found if isinstance(each.holds, Event)}
        self.readers |= {threading.get_ident()} if found else set()
        return found

    def remove(self, messages: Sequence[Received]) -> int:
        self.asked.append("delete")
        return self._source.remove(messages)

    def keep(self, messages: Sequence[Received]) -> None:
        self.asked.append(f"keep {len(messages)}")
        self._source.keep(messages)

    def kept(self) -> int:
        """How often it was asked to keep something."""
        return sum(each.startswith("keep") for each in self.asked)


def body(message: str, kind: str = "Rendering Failure", **mail: Any) -> str:
    """An event that is kept whether or not anything here knows its mail, of no site."""
    return json.dumps(event(kind, mail={"messageId": message, **mail}, tags={"mailroom_site": []}))


def kept(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [row.message_id for row in rows(connection, "SELECT message_id FROM events ORDER BY 1")]


def names(count: int) -> list[str]:
    return [f"m{number:04}" for number in range(count)]


def test_what_comes_in_any_envelope_is_on_record_and_then_deleted(
    engine: Engine, queue: sqs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    queue.put([body("m1"), wrapped(body("m2")), body("m1"), body("m3", "Send"), body("m4", "Open")])
    with Feed(engine, queue.source()).running():
        eventually(lambda: queue.left() == 0, "all of it is read")
    assert kept(engine) == ["m1", "m2"]  # of a Send that nothing here knows nothing is believed
    assert "events received=5 added=2 known=1 elsewhere=0 " in caplog.text
    assert " ignored=1 unreadable=0 left=0" in caplog.text
    assert "ada@" not in caplog.text


@pytest.mark.slow
def test_more_than_one_reader_can_take_is_read_by_several(engine: Engine, queue: sqs.Queue) -> None:
    source, helped = Counting(queue.source()), threading.Event()

    def absorb(connection: Connection, some: Sequence[Event]) -> Absorbed:
        """The first has all in its hand that one can take: it is not done before another helps."""
        if not helped.is_set():
            with contextlib.suppress(pytest.fail.Exception):
                eventually(lambda: len(source.readers) > 1)
            helped.set()
        return events.absorb(connection, some)

    queue.put(body(name) for name in names(200))
    with Feed(engine, source, absorb=absorb).running():
        eventually(lambda: queue.left() == 0, "all of it is read", seconds=2 * PATIENCE_SECONDS)
    assert kept(engine) == names(200)
    assert len(source.readers) > 1


def test_nine_good_ones_are_not_held_up_by_one_that_makes_us_raise(
    engine: Engine, queue: sqs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 17. It comes again, until the queue puts it aside; it is named once, and nothing of it is said."""
    source = Counting(queue.source())

    def absorb(connection: Connection, some: Sequence[Event]) -> Absorbed:
        if any(each.message_id == "m0004" for each in some):
            if len(some) == 1:
                queue.show(source.handles["m0004"])
            raise ValueError(f"a bug, at {some[0].address}")
        return events.absorb(connection, some)

    queue.put(body(name) for name in names(10))
    with Feed(engine, source, absorb=absorb).running():
        eventually(lambda: queue.left(dead=True) == 1, "the tenth is put aside")
    assert kept(engine) == [name for name in names(10) if name != "m0004"]
    [said] = [record.getMessage() for record in caplog.records if "cannot be absorbed" in record.getMessage()]
    assert "error=ValueError at=absorbing.py:" in said
    assert "ada@" not in caplog.text


def test_the_place_of_a_bug_is_in_our_code_whatever_folders_are_called(tmp_path: Path) -> None:
    """A checkout has its name from the repository, and its .venv, with what others wrote, may lie in it."""
    elsewhere, ours = tmp_path / "mailroom" / "elsewhere.py", Path(absorbing.__file__)
    there: dict[str, Any] = {}
    called: dict[str, Any] = {}
    exec(compile("def fail(): raise LookupError", elsewhere, "exec"), there)  # noqa: S102 - our own words
    exec(compile("\n\ndef call(): there()", ours, "exec"), there | {"there": there["fail"]}, called)  # noqa: S102
    with pytest.raises(LookupError) as caught:
        called["call"]()
    assert absorbing.place(caught.value) == f"{ours.name}:3"


def test_an_event_that_the_database_refuses_holds_up_no_other(
    engine: Engine, queue: sqs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """What it says of a value may quote all that was sent along."""
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE events ADD CHECK (message_id <> 'm0002')"))
    queue.put(body(name) for name in names(5))
    with Feed(engine, queue.source()).running():
        eventually(lambda: queue.left() == 1, "the others are read")
    assert kept(engine) == [name for name in names(5) if name != "m0002"]
    assert "error=IntegrityError" in caplog.text
    assert "ada@" not in caplog.text


@pytest.mark.slow
def test_what_nobody_understands_is_named_once_and_put_aside(
    engine: Engine, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 16."""
    queue = sqs.Queue(endpoint, VisibilityTimeout="0")
    queue.put(["ada@example.com", body("m1"), "[" * 100_000])
    with Feed(engine, queue.source()).running():
        eventually(lambda: queue.left(dead=True) == 2, "both are put aside")
    assert kept(engine) == ["m1"]
    assert caplog.text.count("event cannot be read, and stays in the queue: id=") == 2
    assert "ada@" not in caplog.text


def test_a_queue_that_is_gone_is_said_once_and_read_when_it_is_back(
    engine: Engine, queue: sqs.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 15: the senders share nothing with the feed but the database."""
    caplog.set_level("INFO")
    source = Counting(queue.source())
    queue.client.delete_queue(QueueUrl=queue.url)
    with Feed(engine, source).running():
        eventually(lambda: "events cannot be read, trying until that works: " in caplog.text, "it is said")
        eventually(lambda: source.asked.count("receive") > 5, "it is tried again and again")
        queue.client.create_queue(QueueName=queue.url.rpartition("/")[2])
        queue.put([body("m1")])
        eventually(lambda: kept(engine) == ["m1"], "it is read again")
        assert caplog.text.count("events cannot be read") == 1 + caplog.text.count("no longer: events cannot be read")
        assert "no longer: events cannot be read" in caplog.text


def url_of_hurried(url: str) -> str:
    """The URL of sessions whose statements have little time."""
    return make_conninfo(url, options="-c statement_timeout=300ms")


def hold(connection: Connection, message: str) -> None:
    """Let an event of this message wait for the end of a transaction."""
    at = datetime.fromisoformat(event("Rendering Failure")["mail"]["timestamp"])
    held = "INSERT INTO events (message_id, kind, at) VALUES (:message, 'rendering_failure', :at)"
    connection.execute(text(held), {"message": message, "at": at})


@pytest.mark.slow
@pytest.mark.parametrize("patient", [True, False])
def test_an_event_that_waits_for_somebody_holds_up_no_other(
    url: str, engine: Engine, queue: sqs.Queue, caplog: pytest.LogCaptureFixture, *, patient: bool
) -> None:
    """Whatever it is that somebody holds: a statement has its time, and then the others have theirs."""
    with transaction(engine) as holder, connecting(url_of_hurried(url), pool_size=1) as hurried:
        hold(holder, "m0002")
        queue.put(body(name) for name in names(5))
        reading = Feed(hurried, queue.source(), patient=patient)
        if patient:
            with reading.running():
                eventually(lambda: queue.left() == 1, "the others are read")
                queue.put([body("m0005")])
                eventually(lambda: "m0005" in kept(engine), "and so is what comes then")
        else:
            reading.drain(max_time=timedelta(minutes=1))
        assert set(names(5)) - set(kept(engine)) == {"m0002"}
        holder.rollback()
    assert "error=OperationalError" in caplog.text


@pytest.mark.slow
def test_it_holds_up_no_other_either_once_all_of_them_had_to_wait(url: str, engine: Engine, queue: sqs.Queue) -> None:
    """Nobody is left in the queue as long as the database takes nothing; from then on that one alone is."""
    tries: list[int] = []

    def absorb(connection: Connection, some: Sequence[Event]) -> Absorbed:
        tries.append(len(some))
        return events.absorb(connection, some)

    with (
        transaction(engine) as holder,
        transaction(engine) as holder_of_all,
        connecting(url_of_hurried(url), pool_size=1) as hurried,
    ):
        hold(holder, "m0000")
        holder_of_all.execute(text("SELECT FROM feed FOR UPDATE"))
        queue.put([body("m0000")])
        with Feed(hurried, queue.source(), absorb=absorb).running():
            eventually(lambda: tries.count(1) > 2 * absorbing.MAX_CUT_OFF, "it is tried again and again")
            holder_of_all.rollback()
            queue.put([body("m0001")])
            eventually(lambda: kept(engine) == ["m0001"], "the other is absorbed")
            holder.rollback()


@pytest.mark.slow
def test_while_the_database_is_away_nothing_more_is_received_and_nothing_good_is_put_aside(
    url: str, engine: Engine, endpoint: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 14, for longer than the queue hides what was received."""
    caplog.set_level("INFO")
    monkeypatch.setattr(absorbing, "KEEP_EVERY", timedelta(milliseconds=200))
    queue = sqs.Queue(endpoint, VisibilityTimeout="3")
    source = Counting(queue.source())
    with HalfOpenProxy(url) as proxy, connecting(proxy.url, pool_size=1) as through:
        with through.connect():  # so that it is not the first thing that fails
            proxy.lead_to("host=127.0.0.1 port=1")
        proxy.drop()
        queue.put(body(name) for name in names(25))
        with Feed(through, source).running():
            eventually(lambda: "events wait for the database, trying until that works" in caplog.text, "it is said")
            eventually(lambda: len(source.handles) == 25, "all of it is in hand")
            before = source.kept()
            eventually(lambda: source.kept() > before + 16, "it is kept again and again")  # a fifth of a second each
            assert source.asked.count("receive") <= feed.READERS  # once each: none has its hands free
            assert "delete" not in source.asked
            proxy.lead_to(url)
            eventually(lambda: queue.left() == 0, "all of it is read")
    assert kept(engine) == names(25)
    assert queue.left(dead=True) == 0
    assert "no longer: events wait for the database" in caplog.text


@pytest.mark.slow
def test_a_delete_that_does_not_come_through_is_said_and_does_no_harm(
    engine: Engine, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 13: committed, and not deleted. It comes again, is known, and is deleted then."""
    caplog.set_level("INFO")

    class Failing(Counting):
        def remove(self, messages: Sequence[Received]) -> int:
            super_ = super().remove
            if self.asked.count("delete") < 1:
                self.asked.append("delete")
                raise FeedError("AccessDenied")
            return super_(messages)

    queue = sqs.Queue(endpoint, VisibilityTimeout="1")
    queue.put([body("m1")])
    with Feed(engine, Failing(queue.source())).running():
        eventually(lambda: queue.left() == 0, "it is deleted in the end")
    assert kept(engine) == ["m1"]
    assert "events cannot be deleted, and come again, trying until that works: AccessDenied" in caplog.text
    assert "added=1 known=1" in caplog.text


@pytest.mark.slow
def test_a_delete_that_sqs_refuses_within_a_good_answer_is_said_once_and_when_it_is_over(
    engine: Engine, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    class Refusing(Counting):
        def remove(self, messages: Sequence[Received]) -> int:
            if self.asked.count("delete") >= 2:
                return super().remove(messages)
            self.asked.append("delete")
            return len(messages)

    queue = sqs.Queue(endpoint, VisibilityTimeout="1")
    queue.put([body("m1")])
    with Feed(engine, Refusing(queue.source())).running():
        eventually(lambda: queue.left() == 0, "it is deleted in the end")
        eventually(lambda: "no longer: events cannot be deleted" in caplog.text, "it is said that this is over")
    said = "events cannot be deleted, and come again, trying until that works: SQS refuses some of them"
    assert caplog.text.count(said) == 1


def often_in(source: Counting, seconds: float) -> int:
    """How often it is received in so many seconds."""
    before = source.asked.count("receive")
    threading.Event().wait(seconds)
    return source.asked.count("receive") - before


def stays_visible(endpoint: str) -> sqs.Queue:
    """A queue that hides nothing of what was received, and puts nothing aside."""
    queue = sqs.Queue(endpoint, VisibilityTimeout="0")
    queue.set_aside_after(1000)
    return queue


@pytest.mark.slow
def test_what_comes_again_at_once_is_not_asked_for_without_end(
    engine: Engine, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody understands it, so it stays, and this queue hides it for no moment. What is good still comes through."""
    monkeypatch.setattr(feed, "FIRST_REST", timedelta(seconds=1))
    queue = stays_visible(endpoint)
    queue.put(["{"] * 5)  # moto gives those first that it gave before
    source = Counting(queue.source())
    with Feed(engine, source).running(), engine.connect() as connection:
        eventually(lambda: source.asked.count("receive") >= 3, "it is read")
        polled = rows(connection, "SELECT polled_at FROM feed")
        assert often_in(source, 3) <= 3 * feed.READERS
        assert rows(connection, "SELECT polled_at FROM feed") == polled  # nothing to absorb: once a minute
        queue.put([body("m1")])
        eventually(lambda: kept(engine) == ["m1"], "the good one is absorbed")


@pytest.mark.slow
def test_what_cannot_be_deleted_and_comes_again_at_once_is_not_asked_for_without_end(
    engine: Engine, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "FIRST_REST", timedelta(seconds=1))

    class Refusing(Counting):
        def remove(self, messages: Sequence[Received]) -> int:
            return len(messages)

    queue = stays_visible(endpoint)
    queue.put([body("m1")])
    source = Refusing(queue.source())
    with Feed(engine, source).running():
        eventually(lambda: source.asked.count("receive") >= 3, "it is read")
        assert often_in(source, 3) <= 3 * feed.READERS


def test_draining_ends_where_only_what_stays_comes_again(engine: Engine, endpoint: str) -> None:
    queue = stays_visible(endpoint)
    queue.put(["{", *(body(name) for name in names(15))])
    source = Counting(queue.source())
    Feed(engine, source, patient=False).drain(max_time=timedelta(minutes=1))
    assert kept(engine) == names(15)
    assert queue.left() == 1
    assert source.asked.count("receive") < 20


def test_a_stop_waits_for_what_is_in_hand_and_not_for_what_has_not_come(
    engine: Engine, queue: sqs.Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 18: the long poll would last a minute."""
    monkeypatch.setattr(feed, "MAX_WAIT", timedelta(seconds=20))
    began, go_on = threading.Event(), threading.Event()

    def absorb(connection: Connection, some: Sequence[Event]) -> Absorbed:
        if some:
            began.set()
            go_on.wait()
        return events.absorb(connection, some)

    queue.put([body("m1")])
    reading = Feed(engine, queue.source(), absorb=absorb)
    with reading.running():
        assert began.wait(30)
        reading.stop()
        threading.Timer(0.2, go_on.set).start()
    assert kept(engine) == ["m1"]
    assert queue.left() == 0


@pytest.mark.slow
def test_two_feeds_read_one_queue(engine: Engine, queue: sqs.Queue) -> None:
    """Trap 1, with every event four times."""
    queue.put(body(name) for _ in range(4) for name in names(30))
    with Feed(engine, queue.source()).running(), Feed(engine, queue.source()).running():
        eventually(lambda: queue.left() == 0, "all of it is read")
    assert kept(engine) == names(30)


@pytest.mark.slow
def test_that_an_empty_queue_is_read_is_on_record(engine: Engine, queue: sqs.Queue) -> None:
    with Feed(engine, queue.source()).running(), engine.connect() as connection:
        polled = "SELECT FROM feed WHERE polled_at > now() - interval '1 minute'"
        eventually(lambda: rows(connection, polled), "it is noted")


@pytest.mark.slow
def test_draining_ends_when_nothing_is_left(engine: Engine, queue: sqs.Queue) -> None:
    queue.put(body(name) for name in names(15))
    Feed(engine, queue.source(), patient=False).drain(max_time=timedelta(minutes=1))
    assert kept(engine) == names(15)
    assert queue.left() == 0


def test_who_drains_is_told_what_keeps_it_from_that(engine: Engine, queue: sqs.Queue) -> None:
    source = queue.source()
    queue.client.delete_queue(QueueUrl=queue.url)
    with pytest.raises(FeedError):
        Feed(engine, source, patient=False).drain(max_time=timedelta(minutes=1))
