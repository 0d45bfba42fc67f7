"""Senders, as a person gives them and as they stand in a header."""

from email import message_from_string
from email.header import decode_header, make_header
from email.utils import parseaddr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroom.mail.sender import sender


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("help@example.com", "help@example.com"),
        ("  Shop <mail@example.com> ", "Shop <mail@example.com>"),
        ('"Shop, Ltd." <mail@example.com>', '"Shop, Ltd." <mail@example.com>'),
        ("Shop, Ltd. <mail@example.com>", '"Shop, Ltd." <mail@example.com>'),
        ("Müller <mail@example.com>", "=?utf-8?q?M=C3=BCller?= <mail@example.com>"),
    ],
)
def test_a_sender_is_ascii_whatever_its_name(given: str, written: str) -> None:
    assert sender(given) == written


@given(st.text(st.characters(min_codepoint=0xA1, exclude_categories=("C", "Z")), min_size=1, max_size=30))
def test_each_word_of_a_long_name_is_as_short_as_it_has_to_be(name: str) -> None:
    """RFC 2047: at most 75 characters. What is longer is shown by some as it is written."""
    try:
        written = sender(f"Gesellschaft {name} und Verkehr <mail@example.com>")
    except ValueError:
        return
    words = written.removesuffix(" <mail@example.com>")
    assert max(map(len, words.split())) <= 75
    assert str(make_header(decode_header(words))) == f"Gesellschaft {name} und Verkehr"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "noreply@localhost",
        "Shop",
        "a@x.org, b@x.org",
        "a@x.org, B <b@x.org>",
        "A <a@x.org>, B <b@x.org>",
        "a@x.org\r\nBcc: b@x.org",
        "Shop\nBcc: b@x.org <a@x.org>",
        "<a@x.org> <b@x.org>",
        "müller@x.org",
        "a@müller.org",
        "a b@x.org",
        "a@x.org\0",
        "\ud800 <a@x.org>",
        "x" * 400 + " <a@x.org>",
    ],
)
def test_what_is_not_one_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"one address|at most"):
        sender(given)


@given(st.text(max_size=60), st.sampled_from(["a@x.org", "a@x.org>\r\nBcc: <b@x.org"]))
def test_no_name_ends_the_header(name: str, address: str) -> None:
    try:
        written = sender(f"{name} <{address}>")
    except ValueError:
        return
    assert written.isascii()
    assert written.isprintable()
    headers = message_from_string(f"From: {written}\n\n")
    assert headers.keys() == ["From"]
    assert parseaddr(written)[1] == "a@x.org"
