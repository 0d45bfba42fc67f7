"""What the environment may say, and what is said about the rest."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, text

from mailroom import settings
from mailroom.cli import wiring
from mailroom.db import functions
from mailroom.db.engine import CONTRACT, check_contract, connect_engine, connection_string
from mailroom.errors import DatabaseError, SettingsError
from mailroom.queue.limits import MAX_CLAIM_JOBS
from tests.machine import closed_port
from tests.servers import migrate
from tests.world import KEY, KEY_HEX

EACH_SERVER = False

CANARY = "canary"
URL = "postgresql://ada@db.example.com/app"


def ms(number: int) -> timedelta:
    return timedelta(milliseconds=number)


def complaint(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    """Return what is said about a variable with this value, which is not to be accepted."""
    monkeypatch.setenv(f"MAILROOM_{name}", value)
    with pytest.raises(SettingsError) as error:
        settings.load()
    assert error.value.__cause__ is None
    return str(error.value)


DEFAULTS = {
    "database_url": "",
    "listen_database_url": "",
    "schema_name": "mailroom",
    "secret_key": (),
    "channel_name": "token_insert",
    "queue_name": "mailroom",
    "healthcheck_interval": ms(270_000),
    "batch_timeout": ms(5_000),
    "batch_limit": 10,
    "sweep_interval": ms(5_000),
    "lease": ms(30_000),
    "on_unconfirmed": "resend",
    "unconfirmed_wait": None,
    "prune_after": None,
    "debug": False,
    "ses_config_set": "default",
    "ses_source": "noreply@localhost",
    "ses_rate": None,
    "ses_bulk_rate": 1,
    "aws_region": None,
    "events_queue_url": "",
    "aws_endpoint_url_sqs": None,
    "window_password": "",
    "window_actions_database_url": "",
    "probe_address": None,
    "log_format": "text",
    "ses_output_path": None,  # `send` has a default of its own, `worker` none
}


@pytest.mark.parametrize(
    ("given", "into_pipe", "claim_limit"),
    [
        ({}, False, MAX_CLAIM_JOBS),
        ({"batch_limit": 50}, False, MAX_CLAIM_JOBS),
        ({}, True, 10),
        ({"debug": True}, False, 10),
        ({"on_unconfirmed": "hold", "batch_limit": 50}, False, 50),
    ],
)
def test_a_claim_opens_several_batches_only_where_a_call_ends_and_nobody_has_to_decide(
    given: dict[str, Any], into_pipe: bool, claim_limit: int
) -> None:
    changed = settings.load().model_copy(update=given)
    assert wiring.limits(changed, into_pipe=into_pipe).claim_limit == claim_limit


def test_an_empty_environment_gives_the_defaults() -> None:
    assert settings.load().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("DATABASE_URL", URL, URL),
        ("LISTEN_DATABASE_URL", URL, URL),
        ("SCHEMA", "Mail Room", "Mail Room"),
        ("SCHEMA", 'we"ird N\u00e4me: 100%s', 'we"ird N\u00e4me: 100%s'),
        ("SCHEMA", "public", "public"),
        ("SCHEMA", "PG_mail", "PG_mail"),
        ("SCHEMA", "x" * 63, "x" * 63),
        ("SECRET_KEY", KEY_HEX, (KEY,)),
        ("SECRET_KEY", KEY_HEX.upper(), (KEY,)),
        ("SECRET_KEY", f"{'00' * 32},{KEY_HEX}", (bytes(32), KEY)),
        ("CHANNEL_NAME", "new_mail", "new_mail"),
        ("QUEUE_NAME", "newsletter", "newsletter"),
        ("HEALTHCHECK_INTERVAL", "60000", ms(60_000)),
        ("BATCH_TIMEOUT", "0", ms(0)),
        ("BATCH_LIMIT", "1", 1),
        ("BATCH_LIMIT", "50", 50),
        ("SWEEP_INTERVAL", "10", ms(10)),
        ("LEASE", "60000", ms(60_000)),
        ("PROBE_ADDRESS", "9464", ("127.0.0.1", 9464)),
        ("PROBE_ADDRESS", "0.0.0.0:9464", ("0.0.0.0", 9464)),  # noqa: S104 - read, not bound
        ("PROBE_ADDRESS", "[::1]:0", ("::1", 0)),
        ("PROBE_ADDRESS", "", None),
        ("LOG_FORMAT", "json", "json"),
        ("PRUNE_AFTER", "90d", timedelta(days=90)),
        ("SES_RATE", "0.5", 0.5),
        ("SES_RATE", "", None),
        ("SES_BULK_RATE", "20", 20.0),
        ("SES_BULK_RATE", "unlimited", None),
        ("DEBUG", "true", True),
        ("DEBUG", "1", True),
        ("DEBUG", "false", False),
        ("SES_CONFIG_SET", "account-mail_2", "account-mail_2"),
        ("SES_CONFIG_SET", "", ""),
        ("SES_SOURCE", "Ada <ada@example.com>", "Ada <ada@example.com>"),
        ("SES_SOURCE", "Shop, Ltd. <mail@example.com>", '"Shop, Ltd." <mail@example.com>'),
        ("SES_SOURCE", '"Shop, Ltd." <mail@example.com>', '"Shop, Ltd." <mail@example.com>'),
        ("SES_SOURCE", "Shop: all (new) <mail@localhost>", '"Shop: all (new)" <mail@localhost>'),
        ("SES_SOURCE", '"Shop <mail@example.com>', '"\\"Shop" <mail@example.com>'),
        ("SES_SOURCE", "M\u00fcller <mail@example.com>", "=?utf-8?q?M=C3=BCller?= <mail@example.com>"),
        ("SES_SOURCE", " ada@example.com ", "ada@example.com"),
        ("SES_OUTPUT_PATH", "/var/log/mail", Path("/var/log/mail")),
        ("SES_OUTPUT_PATH", "", None),
    ],
)
def test_a_variable_replaces_its_default(monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: object) -> None:
    monkeypatch.setenv(f"MAILROOM_{name}", value)

    field = {"SCHEMA": "schema_name"}.get(name, name.lower())
    assert settings.load().model_dump() == DEFAULTS | {field: read}
    assert (settings.variable(field), settings.unknown_variables()) == (f"MAILROOM_{name}", [])


def test_the_region_is_that_of_every_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")

    assert settings.load().model_dump() == DEFAULTS | {"aws_region": "eu-central-1"}


@pytest.mark.parametrize(("value", "read"), [("", None), (" \n", None), ("eu-west-1\n", "eu-west-1")])
def test_a_region_that_is_empty_is_none_and_a_line_break_is_no_part_of_one(
    monkeypatch: pytest.MonkeyPatch, value: str, read: str | None
) -> None:
    """Of manifests and files of secrets. botocore would say that the endpoint is no URL."""
    monkeypatch.setenv("AWS_REGION", value)

    assert settings.load().aws_region == read


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        *(
            ("SCHEMA", name, "1 to 63 bytes in UTF-8, not pg_…, information_schema or $user")
            for name in ("", "x" * 64, "\u00e4" * 32, "pg_mail", "information_schema", "$user", "caf\udce9")
        ),
        ("CHANNEL_NAME", "", "1 to 63 characters without blanks"),
        ("CHANNEL_NAME", "x" * 64, "1 to 63 characters without blanks"),
        ("CHANNEL_NAME", "\u00e4" * 32, "at most 63 bytes in UTF-8"),
        ("CHANNEL_NAME", "token insert", "1 to 63 characters without blanks"),
        ("CHANNEL_NAME", "caf\udce9", "at most 63 bytes in UTF-8"),
        ("QUEUE_NAME", "caf\udce9", "1 to 63 characters without blanks, in UTF-8"),
        ("QUEUE_NAME", "", "1 to 63 characters without blanks"),
        ("QUEUE_NAME", "news\nletter", "1 to 63 characters without blanks"),
        ("HEALTHCHECK_INTERVAL", "", "a whole number of milliseconds"),
        ("BATCH_TIMEOUT", "5s", "a whole number of milliseconds"),
        ("BATCH_TIMEOUT", "-1", "a whole number of milliseconds"),
        ("BATCH_TIMEOUT", "1.5", "a whole number of milliseconds"),
        ("BATCH_TIMEOUT", "5_000", "a whole number of milliseconds"),
        ("BATCH_TIMEOUT", "\N{ARABIC-INDIC DIGIT FIVE}000", "a whole number of milliseconds"),
        ("BATCH_TIMEOUT", "1000000000", "at most 999999999"),
        ("PRUNE_AFTER", "90", "a number of days, 1d to 9999d"),
        ("SES_RATE", "0", "a number a second, at least 0.01"),
        ("SES_RATE", "unlimited", "a number a second, at least 0.01"),
        ("SES_BULK_RATE", "1e3", "a number a second, at least 0.01"),
        ("PRUNE_AFTER", "0d", "a number of days, 1d to 9999d"),
        ("BATCH_LIMIT", "0", "greater than or equal to 1"),
        ("BATCH_LIMIT", "51", "less than or equal to 50"),
        ("BATCH_LIMIT", "ten", "integer"),
        ("BATCH_LIMIT", "", "integer"),
        ("SWEEP_INTERVAL", "PT5S", "a whole number of milliseconds"),
        ("LEASE", "half a minute", "a whole number of milliseconds"),
        ("DEBUG", "perhaps", "boolean"),
        ("DEBUG", "", "boolean"),
        ("SES_CONFIG_SET", "account mail", "at most 64 letters, digits, _ or -"),
        ("SES_CONFIG_SET", "x" * 65, "at most 64 letters, digits, _ or -"),
        ("SES_SOURCE", "", "an ASCII sender address"),
        ("SES_SOURCE", "noreply", "an ASCII sender address"),
        ("SES_SOURCE", "noreply@", "an ASCII sender address"),
        ("SES_SOURCE", "noreply@-", "an ASCII sender address"),
        ("SES_SOURCE", "noreply@example..com", "an ASCII sender address"),
        ("SES_SOURCE", "Ada <noreply@example-.com>", "an ASCII sender address"),
        ("SES_SOURCE", "a@example.com, b@example.com", "an ASCII sender address"),
        *(
            ("SES_SOURCE", source, "an ASCII sender address")
            for source in (
                *("<a@example.com> <b@example.com>", "a@example.com <b@example.com>", "a@example.com>"),
                *("<a@example.com", "a,b@example.com", ".a@example.com", "a..b@example.com", f"{'x' * 65}@example.com"),
            )
        ),
        ("SES_SOURCE", "no\u00e9@example.com", "an ASCII sender address"),
        ("SES_SOURCE", "noreply@\u00e9xample.com", "an ASCII sender address"),
        ("SES_SOURCE", "no\x7f@example.com", "an ASCII sender address"),
        ("SES_SOURCE", "noreply@example.com\nBcc: all@example.com", "an ASCII sender address"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, accepted: str
) -> None:
    said = complaint(monkeypatch, name, value)

    assert said.startswith(f"MAILROOM_{name}: {value!r} is not accepted: ")
    assert accepted in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("SECRET_KEY", CANARY, "64 hex digits"),
        ("SECRET_KEY", "", "64 hex digits"),
        ("SECRET_KEY", CANARY + KEY_HEX[6:], "64 hex digits"),
        ("SECRET_KEY", KEY_HEX + "00", "64 hex digits"),
        ("SECRET_KEY", KEY_HEX + "\n", "64 hex digits"),
        ("SECRET_KEY", KEY_HEX + ",", "64 hex digits"),
        ("SECRET_KEY", f"{KEY_HEX}, {KEY_HEX}", "64 hex digits"),
        ("SECRET_KEY", f"{KEY_HEX},{CANARY}", "64 hex digits"),
        ("DATABASE_URL", "", "a postgresql:// URL"),
        ("DATABASE_URL", CANARY, "a postgresql:// URL"),
        ("DATABASE_URL", f"mysql://ada:{CANARY}@db/app", "a postgresql:// URL"),
        ("DATABASE_URL", f"postgresql+psycopg2://ada:{CANARY}@db/app", "a postgresql:// URL"),
        ("DATABASE_URL", f"postgresql://ada:{CANARY}@[db/app", "a postgresql:// URL"),
        ("DATABASE_URL", f"host=db password={CANARY} colour=red", "a postgresql:// URL"),
        ("LISTEN_DATABASE_URL", f"mysql://ada:{CANARY}@db/app", "a postgresql:// URL"),
        ("WINDOW_ACTIONS_DATABASE_URL", f"mysql://ada:{CANARY}@db/app", "a postgresql:// URL"),
        ("DATABASE_URL", f"postgresql://ada:{CANARY}\udce9@db/app", "a postgresql:// URL"),
        ("WINDOW_PASSWORD", CANARY[:11], "at least 12 characters"),
        ("WINDOW_PASSWORD", f"{CANARY}\udce9 and more", "at least 12 characters, in UTF-8"),
        ("WINDOW_PASSWORD", f"{CANARY} and more\n", "at least 12 characters, in UTF-8, without control characters"),
        ("WINDOW_PASSWORD", f"{CANARY}\x85 and more", "at least 12 characters, in UTF-8, without control characters"),
    ],
)
def test_a_secret_that_cannot_be_read_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, accepted: str
) -> None:
    said = complaint(monkeypatch, name, value)

    assert said.startswith(f"MAILROOM_{name}: its value is not accepted: {accepted}")
    assert CANARY not in said
    assert KEY_HEX[:8] not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["EVENTS_QUEUE_URL", "QUEUE_NAME", "BATCH_TIMEOUT", "PROBE_ADDRESS", "LOG_FORMAT"])
@pytest.mark.parametrize(
    "value",
    [
        f"postgresql://ada:{CANARY}@db/ the app",
        f"https://ada:{CANARY}/with/slashes@sqs.eu-west-1.amazonaws.com/1/q /",
        f"host=db password={CANARY}",
        f"host=db Password = '{CANARY}'",
        f"{KEY_HEX},{KEY_HEX}",
    ],
)
def test_a_secret_in_the_place_of_something_else_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    said = complaint(monkeypatch, name, value)

    assert said.startswith(f"MAILROOM_{name}: its value is not accepted: ")
    assert CANARY not in said
    assert KEY_HEX[:8] not in said


@pytest.mark.parametrize("name", ["EVENTS_QUEUE_URL", "QUEUE_NAME", "BATCH_TIMEOUT"])
def test_a_value_without_end_is_cut(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said = complaint(monkeypatch, name, "x" * 100_000)

    assert said.startswith(f"MAILROOM_{name}: '{'x' * 50}")
    assert len(said) < 500


def test_the_settings_do_not_show_their_secrets() -> None:
    loaded = settings.load(database_url=f"postgresql://ada:{CANARY}@db/app", secret_key=KEY_HEX)

    assert (loaded.secret_key, loaded.signing_key) == ((KEY,), KEY)
    for shown in (repr(loaded), str(loaded)):
        assert CANARY not in shown
        assert KEY_HEX not in shown
        assert repr(KEY) not in shown


def test_a_variable_in_two_spellings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("mailroom_batch_limit", "7")
    assert settings.load().batch_limit == 7
    said = complaint(monkeypatch, "BATCH_LIMIT", "9")
    assert "MAILROOM_BATCH_LIMIT is set twice" in said
    assert "mailroom_batch_limit" in said


def test_the_spellings_of_what_is_not_ours_are_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs disagree on that of a proxy, so that there are often both."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:3129")
    assert settings.load().batch_limit == 10


def test_the_log_is_written_as_the_settings_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("mailroom_log_format", "json")
    assert settings.load().log_format == settings.log_format() == "json"


def test_everything_that_is_wrong_is_said_at_once_and_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILROOM_BATCH_LIMIT", "0")

    said = complaint(monkeypatch, "LEASE", "long")

    assert "MAILROOM_BATCH_LIMIT: '0'" in said
    assert "MAILROOM_LEASE: 'long'" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("HEALTHCHECK_INTERVAL", "4999", "at least MAILROOM_BATCH_TIMEOUT, 5000 ms"),
        ("LEASE", "27999", "at least 28000 ms: the longest SES call and 3000 ms to spare"),
        ("SWEEP_INTERVAL", "9", "at least 10 ms"),
    ],
)
def test_intervals_must_fit_together(monkeypatch: pytest.MonkeyPatch, name: str, value: str, accepted: str) -> None:
    assert complaint(monkeypatch, name, value) == f"MAILROOM_{name}: {value} ms is not accepted: {accepted}"

    monkeypatch.setenv(f"MAILROOM_{name}", str(int(value) + 1))
    settings.load()


@pytest.mark.parametrize("name", ["database_url", "secret_key"])
def test_what_a_command_needs_is_named_when_it_is_not_set(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^MAILROOM_{name.upper()} is not set: .*required.*$"):
        settings.load(name)


def test_what_a_command_needs_may_come_from_the_command_line() -> None:
    assert settings.load("database_url", database_url=URL).database_url == URL


def test_the_command_line_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILROOM_BATCH_LIMIT", "20")
    monkeypatch.setenv("MAILROOM_QUEUE_NAME", "newsletter")

    loaded = settings.load(batch_limit=30, queue_name=None, lease=ms(40_000))

    assert (loaded.batch_limit, loaded.queue_name, loaded.lease) == (30, "newsletter", ms(40_000))


@pytest.mark.parametrize(("name", "value"), [("batch_limit", 51), ("lease", ms(1)), ("queue_name", "")])
def test_the_command_line_is_checked_like_the_environment(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"^MAILROOM_{name.upper()}: "):
        settings.load(**{name: value})


# Database URLs


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:pw@db.example.com:6432/app?sslmode=require",
        "postgres://ada:pw@db.example.com:6432/app?sslmode=require",
        "postgresql+psycopg://ada:pw@db.example.com:6432/app?sslmode=require",
        "host=db.example.com port=6432 dbname=app user=ada password=pw sslmode=require",
    ],
)
def test_any_spelling_of_a_database_url_is_understood(url: str) -> None:
    wanted = {"host": "db.example.com", "port": "6432", "dbname": "app", "user": "ada", "password": "pw"}

    assert conninfo_to_dict(connection_string(url)).items() >= (wanted | {"sslmode": "require"}).items()


def test_a_database_url_may_replace_what_mailroom_asks_of_a_connection() -> None:
    given = conninfo_to_dict(connection_string(f"{URL}?connect_timeout=60&application_name=web"))
    default = conninfo_to_dict(connection_string(URL))

    assert (given["connect_timeout"], given["application_name"]) == ("60", "web")
    assert (default["connect_timeout"], default["application_name"]) == ("5", "mailroom")


# The database's revision


def failure(url: str) -> str:
    """Return what check_contract says about a database that mailroom cannot work with."""
    engine = connect_engine(url)
    with pytest.raises(DatabaseError) as error:
        check_contract(engine)
    engine.dispose()
    return str(error.value)


def test_a_migrated_database_is_accepted(engine: Engine) -> None:
    check_contract(engine)


def test_a_database_that_is_not_there_is_said_to_be_unreachable() -> None:
    said = failure(f"postgresql://ada:{CANARY}@127.0.0.1:{closed_port()}/app")

    assert said.startswith("the database cannot be used: ")
    assert "refused" in said
    assert CANARY not in said
    assert len(said.splitlines()) == 1


def test_an_unknown_database_is_said_to_be_unreachable(empty_url: str) -> None:
    said = failure(f"{empty_url} dbname=no_such_database")

    assert said.startswith("the database cannot be used: ")
    assert 'database "no_such_database" does not exist' in said
    assert len(said.splitlines()) == 1


NOT_MIGRATED = (
    'the database is not migrated, or functions of mailroom are missing in its schema "mailroom":'
    " run `mailroom migrate`, or name the schema where they are in MAILROOM_SCHEMA"
)


def test_a_database_without_tables_is_to_be_migrated(empty_url: str) -> None:
    assert failure(empty_url) == NOT_MIGRATED


def test_so_is_one_with_an_empty_schema(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA mailroom")
    assert failure(empty_url) == NOT_MIGRATED


def test_so_is_one_whose_functions_are_gone(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        functions.remove(connection)
    assert failure(url) == NOT_MIGRATED
    migrate(url)
    check_contract(engine)


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ("0, 0", "the database is of an older release of mailroom: run `mailroom migrate`"),
        (f"{CONTRACT + 1}, {CONTRACT + 2}", "the database was migrated for newer releases of mailroom: install one of"),
        (f"{CONTRACT}, {CONTRACT + 1}", None),
        (f"{CONTRACT - 1}, {CONTRACT}", None),
    ],
)
def test_a_database_says_which_releases_may_work_on_it(engine: Engine, versions: str, said: str | None) -> None:
    with engine.connect() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION contract() RETURNS TABLE (oldest integer, newest integer)"
                f" LANGUAGE sql AS 'SELECT {versions}'"
            )
        )
    with pytest.raises(DatabaseError, match=said) if said else nullcontext():
        check_contract(engine)
