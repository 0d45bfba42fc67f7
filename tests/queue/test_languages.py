"""The language of a mail: its account's, or the nearest that the template has; told by the claim, batch by batch."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg.errors import InvalidParameterValue
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from mailroom.ops import templates
from tests.claiming import claim, take, waited
from tests.world import add_accounts, ask_recovery, rows

TEMPLATE = "activation-0a1b2c3d"


def speak(connection: Connection, *languages: str, default: str = "en", action: str = "activation") -> None:
    """Use a template with these languages for an action."""
    templates.add(connection, TEMPLATE, action=action, languages=languages, default_language=default)
    templates.use(connection, action, TEMPLATE)


def sign_up(connection: Connection, *languages: str | None) -> None:
    """Insert an account for each language, one after the other, whose activations have been due for a minute."""
    for number, language in enumerate(languages):
        [account] = add_accounts(connection, 1, prefix=f"{number}-")
        connection.execute(
            text("UPDATE accounts SET language = :language WHERE id = :id"), {"language": language, "id": account}
        )
    waited(connection)


def told(connection: Connection, *languages: str | None) -> list[dict[str, Any] | None]:
    """What one batch of mails to accounts with these languages is told."""
    sign_up(connection, *languages)
    jobs = sorted(take(connection).jobs, key=lambda job: job.token)
    return [None if job.data is None else json.loads(job.data) for job in jobs]


@pytest.mark.parametrize(
    ("languages", "default", "account", "chosen"),
    [
        (["de", "en"], "en", "de", "de"),
        (["de", "en"], "en", "de-AT", "de"),
        (["de", "en"], "en", "DE", "de"),
        (["de", "en"], "en", "den", None),
        (["de", "en"], "en", "fr", None),
        (["de", "en"], "en", "en-GB", None),
        (["de", "en"], "en", None, None),
        (["de", "en"], "de", "en-GB", "en"),
        (["en", "pt", "pt-br"], "en", "pt-BR", "pt_br"),
        (["en", "pt", "pt-br"], "en", "pt-br-x-a", "pt_br"),
        (["en", "pt", "pt-br"], "en", "pt-PT", "pt"),
        (["en", "pt-br"], "en", "pt", None),
        (["en", "zh", "zh-hant"], "en", "zh-Hant-TW", "zh_hant"),
        (["zh", "zh-hant"], "zh-hant", "zh-Hant-TW", None),
    ],
)
def test_the_language_is_the_accounts_then_its_base_then_the_default(
    conn: Connection, languages: Sequence[str], default: str, account: str | None, chosen: str | None
) -> None:
    """Trap 25: a missing translation is no blank."""
    speak(conn, *languages, default=default)
    flags = [f"lang_{each.replace('-', '_')}" for each in languages if each != default]
    assert told(conn, account) == [{flag: "1" if flag == f"lang_{chosen}" else "" for flag in flags}]


def test_one_batch_has_mails_in_all_languages(conn: Connection) -> None:
    speak(conn, "de", "en", "fr")
    assert told(conn, "fr", "de", None, "sv") == [
        {"lang_de": "", "lang_fr": "1"},
        {"lang_de": "1", "lang_fr": ""},
        {"lang_de": "", "lang_fr": ""},
        {"lang_de": "", "lang_fr": ""},
    ]


def test_a_template_of_one_language_is_told_of_none(conn: Connection) -> None:
    speak(conn, "en")
    assert told(conn, "de") == [None]


def test_a_template_that_was_made_by_hand_is_told_of_none(conn: Connection) -> None:
    assert told(conn, "de") == [None]


def test_the_languages_are_those_of_the_actions_own_template(conn: Connection) -> None:
    """Three for the one, two for the other."""
    speak(conn, "de", "en", "fr")
    templates.add(conn, "r-1", action="password_recovery", languages=["de", "en"], default_language="en")
    templates.use(conn, "password_recovery", "r-1")
    add_accounts(conn, 1)
    ask_recovery(conn, add_accounts(conn, 1, status="active", prefix="known")[0])
    conn.execute(text("UPDATE accounts SET language = 'fr'"))
    waited(conn)
    found = {batch.action: json.loads(str(batch.jobs[0].data)) for batch in (take(conn), take(conn))}
    assert found == {"activation": {"lang_de": "", "lang_fr": "1"}, "password_recovery": {"lang_de": ""}}


def test_what_the_application_gives_is_there_besides_and_never_wins(conn: Connection) -> None:
    speak(conn, "de", "en")
    sign_up(conn, "de")
    given = json.dumps({"lang_de": "mine", "device": "x"})
    conn.execute(text("UPDATE tokens SET data = CAST(:given AS jsonb)"), {"given": given})
    assert json.loads(str(take(conn).jobs[0].data)) == {"lang_de": "1", "device": "x"}


def test_a_request_cannot_say_it(conn: Connection) -> None:
    [account] = add_accounts(conn, 1, status="active")
    request = text("SELECT request_mail('password_recovery', :account, data => CAST(:data AS jsonb))")
    conn.execute(request, {"account": account, "data": '{"language": "de", "slang_x": "y"}'})
    with pytest.raises(DBAPIError, match="lang_") as refused:
        conn.execute(request, {"account": account, "data": '{"a": 1, "lang_de": "1"}'})
    assert isinstance(refused.value.orig, InvalidParameterValue)


def test_a_batch_keeps_the_template_it_was_claimed_with(conn: Connection) -> None:
    """Trap 24."""
    speak(conn, "de", "en")
    sign_up(conn, "de")
    batch = take(conn)
    templates.add(conn, "activation-later", action="activation", languages=["en"], default_language="en")
    assert templates.use(conn, "activation", "activation-later") == TEMPLATE
    assert batch.action.template == TEMPLATE
    sign_up_more(conn)
    assert (take(conn).action.template, claim(conn).taken) == ("activation-later", 0)


def sign_up_more(connection: Connection) -> None:
    add_accounts(connection, 1, prefix="later")
    waited(connection)


def test_what_is_finished_is_on_record_as_before(conn: Connection) -> None:
    """A language is told of what is mailed; a token that is gone has none."""
    speak(conn, "de", "en")
    sign_up(conn, "de")
    conn.execute(text("DELETE FROM tokens"))
    assert [each.error_code for each in claim(conn).finished] == ["TokenGone"]
    assert [row.outcome for row in rows(conn, "SELECT outcome FROM deliveries")] == ["cancelled"]
