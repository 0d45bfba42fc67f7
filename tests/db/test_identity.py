"""Which database a connection leads to: told by any role, and whatever its URL says."""

from sqlalchemy import Connection

from mailroom.db.engine import connect_engine
from mailroom.db.identity import identity
from tests.roles import a_role
from tests.servers import Server


def found(url: str) -> tuple[int, int] | None:
    engine = connect_engine(url, writes=False)
    try:
        with engine.connect() as connection:
            return identity(connection)
    finally:
        engine.dispose()


def test_a_database_is_told_from_others_by_any_role(server: Server, url: str, conn: Connection) -> None:
    with a_role(server) as (_, log_in):
        assert found(log_in(url)) == found(url) is not None
    assert identity(conn) != found(url)
