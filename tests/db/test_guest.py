"""A good guest: in any schema, beside whatever the application has."""

import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import text

from mailroom import tokens
from mailroom.job import Action
from tests.db.migrating import ONLY_VERSIONS, RELATIONS, alembic, assert_at_revision, connected, objects, relations
from tests.servers import migrate
from tests.world import KEY, add_accounts, misplaced, rows


def in_schema(url: str, name: str) -> str:
    """Return the URL with the search_path that chooses a schema, which is made."""
    with connected(url) as connection:
        connection.execute(text(f'CREATE SCHEMA "{name}"'))
    return make_conninfo(url, options=f'-csearch_path="{name}",public'.replace(" ", "\\ "))


def test_the_alembic_of_the_application_is_left_alone(empty_url: str) -> None:
    with connected(empty_url) as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('app0042')"))

    for revision in ("head", "base"):
        migrate(empty_url, revision)
        with connected(empty_url) as connection:
            assert rows(connection, "SELECT version_num FROM alembic_version") == [("app0042",)]


@pytest.mark.parametrize("name", ["mail", "Mail Room"])
def test_a_schema_of_its_own_leaves_public_alone(empty_url: str, name: str) -> None:
    before = objects(empty_url)
    url = in_schema(empty_url, name)

    migrate(url)
    assert relations(empty_url, f'"{name}"') == RELATIONS
    assert objects(empty_url) == before
    assert_at_revision(url)

    migrate(url, "base")
    assert objects(empty_url, f'"{name}"') == ONLY_VERSIONS
    assert objects(empty_url) == before


def test_two_mailrooms_live_in_two_schemas(url: str) -> None:
    other = in_schema(url, "mail")
    migrate(other)

    with connected(other) as connection:
        add_accounts(connection, 2)
        assert misplaced(connection) == []
    with connected(url) as connection:
        assert rows(connection, "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM jobs)") == [(0, 0)]


def test_another_search_path_is_no_obstacle(empty_url: str) -> None:
    """An application that names the schema in its statements needs it on no path."""
    migrate(in_schema(empty_url, "mail"))

    with connected(empty_url) as connection:
        connection.execute(text("INSERT INTO mail.accounts (email, login) VALUES ('ada@example.com', 'ada')"))
        [(secret,)] = rows(connection, "SELECT secret FROM mail.tokens JOIN mail.jobs ON token = tokens.id")
        [(account,)] = rows(connection, "SELECT mail.consume_token(:secret, 'activation')", secret=secret)
        assert rows(connection, "SELECT id, status FROM mail.accounts") == [(account, "active")]


def test_the_python_of_an_application_consumes_in_a_schema_of_its_own(empty_url: str) -> None:
    url = in_schema(empty_url, "mail")
    migrate(url)

    with connected(url) as connection:
        [account] = add_accounts(connection, 1)
        [(secret,)] = rows(connection, "SELECT secret FROM tokens")
        token = tokens.sign(secret, action=Action.ACTIVATION, key=KEY)
        assert tokens.consume(connection, token, action=Action.ACTIVATION, key=KEY) == account


def test_a_schema_that_does_not_exist_is_said_so(empty_url: str) -> None:
    url = make_conninfo(empty_url, options="-csearch_path=nowhere")

    process = alembic(url, "upgrade", "head")

    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "names no schema that exists" in output
    assert objects(empty_url) == set()
