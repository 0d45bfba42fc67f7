"""What `doctor` says of the feed: how old the newest event is, and that nothing is heard while mails go out."""

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom.finding import Level
from mailroom.ops.doctor import examine
from tests.telling import went_out


@pytest.mark.parametrize(
    ("polled", "heard", "sent", "level", "words"),
    [
        (None, None, "1 hour", None, ""),
        ("1 s", None, "1 s", Level.OK, "the queue of events is read; none of this database has come yet"),
        ("1 s", "90 s", "1 s", Level.OK, "the newest came 9"),
        ("1 s", "2 hours", "3 hours", Level.OK, "the newest came 720"),
        ("1 s", "2 hours", "11 minutes", Level.WARNING, "FeedSilent: no event for mails sent more than 10"),
        ("1 hour", None, "11 minutes", Level.WARNING, "the newest came: never"),
    ],
)
def test_the_age_of_the_newest_event_is_told(
    engine: Engine,
    connection: Connection,
    direct_url: str,
    polled: str | None,
    heard: str | None,
    sent: str,
    level: Level | None,
    words: str,
) -> None:
    went_out(connection, 1, ago=sent)
    connection.execute(
        text(
            "UPDATE feed SET heard_at = now() - CAST(:heard AS interval), polled_at = now() - CAST(:polled AS interval)"
        ),
        {"heard": heard, "polled": polled},
    )
    findings = list(examine(engine, listening=direct_url, channel="token_insert", queue="mailroom"))
    of_feed = [each for each in findings if each.check == "events" or "FeedSilent" in each.message]
    assert [each.level for each in of_feed] == ([] if level is None else [level])
    assert all(words in each.message and bool(each.remedy) == (level is Level.WARNING) for each in of_feed)
