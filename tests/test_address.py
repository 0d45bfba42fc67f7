"""Which addresses SES takes, and how they are written for it."""

import pytest

from mailroom.address import LONGEST_LOCAL_PART, ascii_address


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("jo@example.com", "jo@example.com"),
        ("Jo.O'Neill+x@Example.COM", "Jo.O'Neill+x@example.com"),
        ("jo@bücher.example", "jo@xn--bcher-kva.example"),
        ("jo@BÜCHER.example", "jo@xn--bcher-kva.example"),
        ("jo@xn--bcher-kva.example", "jo@xn--bcher-kva.example"),
        ("jo@例え.example", "jo@xn--r8jz45g.example"),
        ("success@simulator.amazonses.com", "success@simulator.amazonses.com"),
        ("a" * LONGEST_LOCAL_PART + "@example.com", "a" * LONGEST_LOCAL_PART + "@example.com"),
    ],
)
def test_an_address_is_written_in_ascii(address: str, written: str) -> None:
    assert ascii_address(address) == written


@pytest.mark.parametrize(
    "address",
    [
        "jö@example.com",
        "jo@ex_ample.com",
        "jo@-example.com",
        "jo@example..com",
        "jo@example.com.",
        "jo@example",
        "jo@",
        "@example.com",
        "jo",
        "",
        "jo@@example.com",
        "jo.@example.com",
        ".jo@example.com",
        "jo@192.0.2.1",
        "jo@[192.0.2.1]",
        "jo@example.com,li@example.com",
        "Jo <jo@example.com>",
        "jo@example.com\r\nBcc: li@example.com",
        "jo@example.com\n",
        "jo\N{RIGHT-TO-LEFT OVERRIDE}@example.com",
        "jo@\N{RIGHT-TO-LEFT OVERRIDE}.example",
        "jo@" + "a" * 64 + ".com",
        "jo@" + "ü" * 63 + ".com",
        "a" * (LONGEST_LOCAL_PART + 1) + "@example.com",
        "a" * 64 + "@" + ".".join(["b" * 60] * 4) + ".com",
    ],
)
def test_what_ses_cannot_take_has_no_such_form(address: str) -> None:
    assert ascii_address(address) is None


@pytest.mark.parametrize(
    "domain", ["localhost", "site.test", "site.local", "site.invalid", "site.localhost", "x.onion"]
)
def test_nothing_is_sent_where_no_mail_can_arrive(domain: str) -> None:
    assert ascii_address(f"jo@{domain}") is None
