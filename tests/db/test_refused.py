"""What the database refuses of single mails is one line of the log, without the words of whoever refuses."""

import pytest
from sqlalchemy import Engine, text

RAISED = "DO $$ BEGIN RAISE WARNING '{words}' USING ERRCODE = '23503', DETAIL = '{detail}'; END $$"


@pytest.mark.parametrize("token", ["4", "-4", ""])
def test_a_token_is_named_whatever_its_number_is(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """Once in an hour."""
    monkeypatch.setattr("mailroom.db.refused._said", {})
    with engine.connect() as connection:
        for _ in range(2):
            words = RAISED.format(words="mailroom: refused, by canary", detail=f"prune token={token}")
            connection.execute(text(words))
    assert caplog.messages == [f"refused by the database act=prune code=23503 token={token or 'unknown'}"]


@pytest.mark.parametrize(
    ("words", "detail"),
    [("mailroom: canary", "a canary"), ("canary", "other token=4"), ("mailroom: canary", "other token=4 canary")],
)
def test_what_others_raise_is_not_told(
    engine: Engine, caplog: pytest.LogCaptureFixture, words: str, detail: str
) -> None:
    with engine.connect() as connection:
        connection.execute(text(RAISED.format(words=words, detail=detail)))
    assert caplog.messages == []
