"""Senders, as a person gives them and as they stand in a header."""

from email import message_from_string
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
