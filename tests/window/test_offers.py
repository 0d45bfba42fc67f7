"""What may be done is offered where it can be, and a preview counts what it would change, and nothing else."""

import re
from html import unescape

import pytest
from sqlalchemy import Engine, text

from tests.window.client import Window

EACH_SERVER = False


def offered(window: Window, path: str) -> set[str]:
    """What the buttons of a page lead to."""
    return {unescape(link) for link in re.findall(r'class="button" href="/act/([^"]*)"', window.ask(path).text)}


def heading(page: str) -> str:
    [words] = re.findall(r"<h1[^>]*>(.*?)</h1>", page)
    return unescape(str(words))


def consume(engine: Engine, token: int) -> None:
    """Let a link be used that a mail had."""
    with engine.connect() as connection:
        connection.execute(text("UPDATE tokens SET consumed_at = now() WHERE id = :token"), {"token": token})


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["sent", "deferred", "unconfirmed"])
def test_what_is_out_or_comes_again_by_itself_is_not_offered_to_be_tried_again(window: Window, outcome: str) -> None:
    assert "<td" in window.ask(f"/record?outcome={outcome}").text
    assert offered(window, f"/record?outcome={outcome}") == set()
    preview = window.ask(f"/act/retry?outcome={outcome}&since=1d").text
    assert heading(preview).startswith("Try again 0 mails")
    assert "There is none, so there is nothing to do." in preview


def test_what_was_refused_is_offered_to_be_tried_again(window: Window) -> None:
    assert offered(window, "/record?outcome=rejected") == {"retry?outcome=rejected&since=1d"}
    assert offered(window, "/record?code=Throttling") == set()
    assert offered(window, "/record?code=NoSuch") == set()


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["release?outcome=rejected", "drop?code=MessageRejected", "retry?held=1"])
def test_a_preview_counts_nothing_that_would_stay_as_it_is(window: Window, asked: str) -> None:
    preview = window.ask(f"/act/{asked}").text
    assert " 0 " in heading(preview)
    assert 'name="tokens"' not in preview


def test_a_mail_whose_link_was_used_is_not_tried_again(window: Window, engine: Engine, tokens: dict[str, int]) -> None:
    assert "Try again 1 mail" in heading(window.ask("/act/retry?outcome=rejected").text)
    consume(engine, tokens["rejected"])
    assert "Try again 0 mails" in heading(window.ask("/act/retry?outcome=rejected").text)


@pytest.mark.slow
def test_a_mail_that_ses_took_after_all_is_not_tried_again(
    window: Window, engine: Engine, tokens: dict[str, int]
) -> None:
    late = "INSERT INTO deliveries (token, action, outcome, attempt, message_id, late)"
    with engine.connect() as connection:
        connection.execute(
            text(f"{late} VALUES (:token, 'activation', 'sent', 0, 'late', true)"), {"token": tokens["rejected"]}
        )
    assert "Try again 0 mails" in heading(window.ask("/act/retry?outcome=rejected").text)
    never_out = "INSERT INTO events (message_id, kind, at) VALUES ('late', 'rendering_failure', now())"
    with engine.connect() as connection:
        connection.execute(text(never_out))
    assert "Try again 1 mail" in heading(window.ask("/act/retry?outcome=rejected").text)


def test_of_mails_that_are_named_those_are_counted_that_would_change(window: Window, tokens: dict[str, int]) -> None:
    named = ",".join(str(tokens[each]) for each in ("sent", "held", "waiting", "flight"))
    assert heading(window.ask(f"/act/release?token={named}").text) == "Release 1 mail, named by its token?"
    assert heading(window.ask(f"/act/drop?token={named}").text) == "Drop 2 mails, named by their tokens?"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "deeds"),
    [
        *(("sent", set()), ("flight", set()), ("rejected", {"retry"})),
        *(("waiting", {"retry", "drop"}), ("held", {"release", "drop"})),
    ],
)
def test_the_page_of_a_mail_offers_what_would_change_it(
    window: Window, tokens: dict[str, int], what: str, deeds: set[str]
) -> None:
    assert offered(window, f"/mail/{tokens[what]}") == {f"{deed}?token={tokens[what]}" for deed in deeds}
