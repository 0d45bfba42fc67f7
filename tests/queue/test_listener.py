"""A listener says that it hears only while it does."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select

from mailroom.queue.listener import Listener
from tests.running import eventually


def test_one_that_has_ended_by_a_bug_is_not_taken_for_one_that_hears(engine: Engine, direct_url: str) -> None:
    pings: list[str] = []

    def ping(channel: str, payload: str) -> bool:
        pings.append(payload)
        if len(pings) > 1:
            raise RuntimeError
        with engine.connect() as connection:
            connection.execute(select(func.pg_notify(channel, payload)))
        return True

    listener = Listener(
        direct_url, "token_insert", healthcheck_interval=timedelta(seconds=1), woken=lambda _: None, ping=ping
    )
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(listener.run)
        eventually(lambda: listener.is_listening, "it hears")
        with pytest.raises(RuntimeError):
            ended.result()
    assert not listener.is_listening
