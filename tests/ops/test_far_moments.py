"""Jobs whose moment no program of ours can hold are listed like others, each once, and hide none."""

from itertools import count
from urllib.parse import urlencode

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.job import Priority
from mailroom.ops import browse, walk
from mailroom.ops.jobs import Filters
from mailroom.outcome import Sent
from mailroom.queue.verdict import judge
from tests.claiming import take
from tests.window.client import opened
from tests.world import add_accounts

EACH_SERVER = False
FAR = ["-infinity", "-infinity", "0044-03-15 BC", "2020-01-01", "9000-01-01 00:00+00", "20000-01-01", "20000-01-01"]


def put(connection: Connection, moments: list[str]) -> list[int]:
    """Let a job be due at each of these moments; return their tokens, as they will leave."""
    add_accounts(connection, len(moments), prefix="far")
    tokens = list(connection.execute(text("SELECT token FROM jobs ORDER BY token")).scalars())
    for token, moment in zip(tokens, moments, strict=True):
        bind = {"token": token, "moment": moment}
        connection.execute(text("UPDATE jobs SET due_at = CAST(:moment AS timestamptz) WHERE token = :token"), bind)
    return tokens


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_a_lane_is_gone_through_without_one_lost_or_repeated(conn: Connection, limit: int) -> None:
    tokens = put(conn, FAR)
    found: list[int | None] = []
    place = None
    for turn in count():
        assert turn <= len(FAR), "it ends"
        page = browse.lane(conn, "mailroom", Priority.NORMAL, "activation", after=place, limit=limit)
        found += [row.token for row in page.rows]
        place = page.next
        if place is None:
            break
    assert found == tokens


def test_the_list_of_all_has_them(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = put(conn, FAR)
    monkeypatch.setattr(walk, "STRETCH", 2)
    assert [found.token for found in walk.find(conn, Filters())] == tokens
    assert [found.token for found in walk.find(conn, Filters(tokens=tuple(tokens)))] == tokens


@pytest.mark.parametrize("moment", ["-infinity", "0044-03-15 BC", "20000-01-01"])
def test_every_page_shows_such_a_job(engine: Engine, moment: str) -> None:
    with engine.connect() as connection:
        [token] = put(connection, [moment])
    place = urlencode({"at": "1000-01-01T00:00:00+00:00", "number": token - 1})
    with opened(engine) as window:
        for path in ("/", "/lane/mailroom/1/activation", f"/lane/mailroom/1/activation?{place}", f"/mail/{token}"):
            assert window.ask(path).status == 200
        assert f"/mail/{token}" in window.ask("/lane/mailroom/1/activation").text


def test_a_mail_that_was_due_at_such_a_moment_has_its_life(engine: Engine) -> None:
    with engine.connect() as connection:
        [token] = put(connection, ["2020-01-01"])
        batch = take(connection)
        queue.settle(connection, [(batch, [judge(Sent("m"), attempt=0, jitter=0)])])
        connection.execute(text("UPDATE deliveries SET due_at = '-infinity'"))
    with opened(engine) as window:
        assert "accepted" in window.ask(f"/mail/{token}").text
