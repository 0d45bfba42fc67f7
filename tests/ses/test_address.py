"""Which addresses SES takes, and how they are written for it."""

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from mailroom.ses.address import MAX_LOCAL_PART, ascii_address


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("jo@example.com", "jo@example.com"),
        ("Jo.O'Neill+x@Example.COM", "Jo.O'Neill+x@example.com"),
        ("jo@bücher.example", "jo@xn--bcher-kva.example"),
        ("jo@BÜCHER.example", "jo@xn--bcher-kva.example"),
        ("jo@xn--bcher-kva.example", "jo@xn--bcher-kva.example"),
        ("jo@例え.example", "jo@xn--r8jz45g.example"),
        ("jo@xn--i-7iq.ws", "jo@xn--i-7iq.ws"),
        ("Jo@mail.XN--LS8H.la", "Jo@mail.xn--ls8h.la"),
        ("o'neil.xn--ls8h.x@xn--ls8h.la", "o'neil.xn--ls8h.x@xn--ls8h.la"),
        ("success@simulator.amazonses.com", "success@simulator.amazonses.com"),
        ("a" * MAX_LOCAL_PART + "@example.com", "a" * MAX_LOCAL_PART + "@example.com"),
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
        "jo@xn--.com",
        "jo@xn--ls8h-.la",
        "jo@xn--ls8h",
        "jo@xn--ls8h.test",
        "jo@xn--ls8h.la.",
        "jö@xn--ls8h.la",
        "jo@\N{PILE OF POO}.xn--ls8h.la",
        "jo@xn--" + "a" * 60 + ".com",
        "jo@[192.0.2.1]",
        "jo@example.com,li@example.com",
        "Jo <jo@example.com>",
        "jo@example.com\r\nBcc: li@example.com",
        "jo@example.com\n",
        "jo\N{RIGHT-TO-LEFT OVERRIDE}@example.com",
        "jo@\N{RIGHT-TO-LEFT OVERRIDE}.example",
        "jo@" + "a" * 64 + ".com",
        "jo@" + "ü" * 63 + ".com",
        "a" * (MAX_LOCAL_PART + 1) + "@example.com",
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


@given(
    st.text(st.sampled_from("aZ9._+-'!#@ \u00fc\u202e\n"), max_size=12),
    st.text(st.sampled_from("aZ9.-_@ \u00fc\u202e\n"), max_size=12),
)
def test_what_is_known_of_a_domain_changes_nothing(local_part: str, domain: str) -> None:
    """Each address is judged as if by itself, whether or not its domain was met before."""
    address = f"{local_part}@{domain}.com"
    try:
        whole: str | None = validate_email(address, check_deliverability=False, allow_smtputf8=False).ascii_email
    except EmailNotValidError:
        whole = None
    assert ascii_address(address) == ascii_address(address) == whole
