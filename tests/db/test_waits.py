"""What is said of a session that waits."""

import pytest
from sqlalchemy import Engine

from mailroom.db import waits
from tests.running import eventually
from tests.servers import Server


def test_who_gets_no_connection_to_ask_says_so_in_a_line(
    server: Server, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would tell of goes on all the same."""
    monkeypatch.setattr(waits, "EVERY_SECONDS", 0.01)
    said: list[str] = []
    with engine.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        with waits.told(connection, said.append):
            eventually(lambda: said, "it says that it cannot tell")
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert said == ["what is waited for cannot be told: OperationalError"]
