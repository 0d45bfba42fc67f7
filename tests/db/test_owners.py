"""Whoever migrates, all of it is one role's: functions have its rights, and have to reach what comes."""

import psycopg
import pytest

from mailroom.db.engine import connect_engine
from mailroom.finding import Level
from mailroom.ops import doctor_rights
from tests.db.migrating import assert_at_revision, connected
from tests.roles import a_role
from tests.servers import Server, migrate
from tests.world import execute, rows

OWNERS = """
SELECT DISTINCT pg_get_userbyid(owner) AS name
  FROM (SELECT relowner, relnamespace FROM pg_class UNION ALL SELECT proowner, pronamespace FROM pg_proc
        UNION ALL SELECT typowner, typnamespace FROM pg_type) AS found (owner, home)
 WHERE home = CAST('mailroom' AS regnamespace)
"""


def owners(url: str) -> list[str]:
    with connected(url) as connection:
        return [row.name for row in rows(connection, OWNERS)]


@pytest.mark.slow
def test_what_another_role_migrates_belongs_to_the_owner(server: Server, empty_url: str) -> None:
    """A superuser, or a member of the owner, as where somebody else is on duty for the next release."""
    with (
        a_role(server) as (owner, own),
        a_role(server) as (member, theirs),
        psycopg.connect(empty_url, autocommit=True) as superuser,
    ):
        superuser.execute(f"CREATE SCHEMA mailroom AUTHORIZATION {owner}; GRANT {owner} TO {member}")
        for revision, url in (("0003", own(empty_url)), ("0006", empty_url), ("head", theirs(empty_url))):
            migrate(url, revision)
            assert owners(empty_url) == [owner]
        assert_at_revision(empty_url)
        migrate(empty_url)  # where no step is left, functions are made anew
        assert owners(empty_url) == [owner]
        migrate(empty_url, "0004")
        migrate(empty_url)
        assert owners(empty_url) == [owner]


@pytest.mark.slow
def test_who_may_not_act_as_the_owner_migrates_nothing(server: Server, empty_url: str) -> None:
    with (
        a_role(server) as (owner, own),
        a_role(server) as (other, theirs),
        psycopg.connect(empty_url, autocommit=True) as superuser,
    ):
        superuser.execute(f"CREATE SCHEMA mailroom AUTHORIZATION {owner}; GRANT ALL ON SCHEMA mailroom TO {other}")
        migrate(own(empty_url), "0003")
        with pytest.raises(Exception, match=f'permission denied to set role "{owner}"'):
            migrate(theirs(empty_url))
        assert owners(empty_url) == [owner]


@pytest.mark.slow
def test_where_parts_belong_to_several_who_could_migrate_still_can(server: Server, empty_url: str) -> None:
    with a_role(server) as (role, log_in), psycopg.connect(empty_url, autocommit=True) as superuser:
        log_in(empty_url)
        migrate(empty_url)
        superuser.execute(f"ALTER TABLE mailroom.tokens OWNER TO {role}")
        superuser.execute(f"ALTER TABLE mailroom.mailroom_alembic_version OWNER TO {role}")
        migrate(empty_url)
        assert_at_revision(empty_url)


@pytest.mark.slow
def test_tables_out_of_reach_of_the_functions_are_named_with_what_brings_them_back(
    server: Server, empty_url: str
) -> None:
    """As `ALTER TABLE … OWNER TO`, for all tables of a schema and nothing else, leaves it."""
    with (
        a_role(server) as (owner, own),
        psycopg.connect(empty_url, autocommit=True) as superuser,
    ):
        superuser.execute(f"CREATE SCHEMA mailroom AUTHORIZATION {owner}")
        migrate(own(empty_url))
        superuser.execute("ALTER TABLE mailroom.tokens OWNER TO CURRENT_USER")
        superuser.execute("ALTER TABLE mailroom.feed OWNER TO CURRENT_USER")
        engine = connect_engine(empty_url)
        with engine.connect() as connection:
            [found] = doctor_rights.examine(connection)
            assert found.message == f"{owner}, the owner of mailroom's functions, lacks rights on: feed, tokens"
            assert doctor_rights.remedy(connection) == found.remedy
            superuser.execute(found.remedy.encode())
            assert [each.level for each in doctor_rights.examine(connection)] == [Level.OK]
            assert doctor_rights.remedy(connection) == doctor_rights.GRANT
        engine.dispose()


@pytest.mark.slow
def test_who_may_read_secrets_is_named_with_what_takes_that_back(server: Server, empty_url: str) -> None:
    """A default privilege gives it with each table, and whoever only looks has the schema, too."""
    with a_role(server) as (viewer, log_in), psycopg.connect(empty_url, autocommit=True) as superuser:
        log_in(empty_url)
        superuser.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {viewer}")
        migrate(empty_url)
        superuser.execute("GRANT SELECT (code) ON mailroom.tokens TO PUBLIC")
        engine = connect_engine(empty_url)
        with engine.connect() as connection:
            [found] = doctor_rights.examine(connection)
            assert found.level is Level.WARNING
            assert found.message.endswith(f" may be read by: PUBLIC, {viewer}")
            superuser.execute(found.remedy.removeprefix("if nobody needs it: ").partition(";")[0].encode())
            assert [each.level for each in doctor_rights.examine(connection)] == [Level.OK]
        engine.dispose()


def test_what_everybody_may_call_is_named_until_a_migration_takes_it_back(url: str) -> None:
    """As a dump does that is restored without rights."""
    engine = connect_engine(url)
    execute(engine, "GRANT EXECUTE ON FUNCTION mailroom.claim, mailroom.consume_token TO PUBLIC")
    with engine.connect() as connection:
        [found] = doctor_rights.examine(connection)
        assert (found.level, found.message) == (Level.FAILED, "everybody may call: claim, consume_token")
        assert found.remedy == "mailroom migrate"
        migrate(url)
        assert [each.level for each in doctor_rights.examine(connection)] == [Level.OK]
    engine.dispose()
