"""What the templates of the mails are given: JSON, with the login as markup that is inert and as raw text."""

import html
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroom.job import Action
from mailroom.mail import templates

LOGINS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=254)


def data(login: str, action: Action = Action.ACTIVATION) -> dict[str, str]:
    written = templates.template_data(action, login=login, secret="s3cret", code="01234")
    assert written.isascii()
    read: dict[str, str] = json.loads(written)
    return read


def test_every_action_has_a_template_and_a_number_of_its_own() -> None:
    assert {Action.ACTIVATION: "activationv1", Action.PASSWORD_RECOVERY: "passwordrecoveryv1"} == templates.TEMPLATES
    assert {Action.ACTIVATION: "1", Action.PASSWORD_RECOVERY: "2"} == templates.NUMBERS
    assert set(Action) == templates.TEMPLATES.keys() == templates.NUMBERS.keys()


def test_only_a_recovery_has_a_code() -> None:
    assert data("jo") == {"login": "jo", "login_text": "jo", "secret": "s3cret"}
    assert data("jo", Action.PASSWORD_RECOVERY) == {**data("jo"), "code": "01234"}


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
