"""What the templates of the mails are given: JSON, with the login as markup that is inert and as raw text."""

import html
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroom.job import Action
from mailroom.mail import templates
from tests.kinds import ACTIVATION, RECOVERY

LOGINS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=254)


def data(login: str, action: Action = ACTIVATION) -> dict[str, str]:
    written = templates.template_data(login=login, secret="s3cret", code="01234" if action.has_code else None)
    assert written.isascii()
    read: dict[str, str] = json.loads(written)
    return read


def test_only_a_recovery_has_a_code() -> None:
    assert data("jo") == {"login": "jo", "login_text": "jo", "secret": "s3cret"}
    assert data("jo", RECOVERY) == {**data("jo"), "code": "01234"}


@pytest.mark.parametrize("login", ["<script>alert(1)</script>", "\"quoted\" 'too'", "a & b", "{{secret}}", "\\u0041\\"])
def test_a_login_is_inert_in_html_and_raw_in_text(login: str) -> None:
    assert data(login)["login"] == html.escape(login)
    assert data(login)["login_text"] == login


@given(login=LOGINS)
def test_any_login_survives(login: str) -> None:
    markup = data(login)["login"]
    assert not set("<>\"'") & set(markup)
    assert html.unescape(markup) == html.unescape(html.escape(login))
    assert data(login)["login_text"] == login


@given(login=LOGINS)
def test_a_browser_sees_the_login_and_no_tag(login: str) -> None:
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            raise AssertionError(tag)

        def handle_data(self, data: str) -> None:
            seen.append(data)

    reader = Reader()
    reader.feed(data(login)["login"])
    reader.close()
    assert "".join(seen) == login


def test_a_language_is_told_once_and_nothing_else_of_its_name() -> None:
    given = json.dumps({"lang_de": "1", "lang_pt_br": "", "device": "<x>"})
    written = json.loads(templates.template_data(login="jo", secret="s", code=None, data=given))
    assert written == {
        "lang_de": "1",
        "lang_pt_br": "",
        "device": "&lt;x&gt;",
        "device_text": "<x>",
        "login": "jo",
        "login_text": "jo",
        "secret": "s",
    }


@pytest.mark.parametrize(
    ("data", "left"),
    [(None, None), ('{"lang_de": ""}', None), ('{"lang_de": "1", "a": "b"}', '{"a": "b"}'), ('{"a": 1}', '{"a": 1}')],
)
def test_what_is_left_without_a_language(data: str | None, left: str | None) -> None:
    assert templates.without_languages(data) == left


def test_every_language_but_the_default_is_told_not_to_be_it() -> None:
    assert templates.language_flags(["de", "en", "pt-br"], "en") == {"lang_de": "", "lang_pt_br": ""}
    assert templates.language_flags([], None) == {}
