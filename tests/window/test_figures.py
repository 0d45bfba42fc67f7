"""Figures of the first page that end somewhere say so."""

import re

from sqlalchemy import Engine, text

from mailroom.ops.refresh import refresh
from tests.window.client import opened

EACH_SERVER = False


def test_more_unconfirmed_mails_than_are_counted_are_not_told_as_a_number(engine: Engine) -> None:
    many = (
        "INSERT INTO deliveries (token, action, outcome, attempt, created_at)"
        " SELECT id, 'activation', 'unconfirmed', 0, now() - interval '2 hours' FROM generate_series(1, :count) AS id"
    )
    with engine.connect() as connection:
        connection.execute(text(many), {"count": 10_050})
        assert refresh(engine) is not None
        with opened(engine) as window:
            page = window.ask("/").text
    assert re.findall(r"<dt>Unconfirmed</dt><dd><a [^>]*>([^<]*)</a>", page) == ["10,000+"]
