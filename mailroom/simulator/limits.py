"""The limits of SES that its documentation states and its service model does not."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mailroom.simulator.refusal import bad_request

MAX_ENTRIES = 50  # SES: at most 50 destinations a bulk call
MAX_RECIPIENTS = 50  # SES: at most 50 recipients a message, To, Cc and Bcc together
MAX_INLINE_BYTES = 1024 * 1024  # SES: with an inline template, the whole request is at most 1 MB
MAX_HEADER_CHARACTERS = 996  # SES: a header's name and value together

MAX_TEMPLATE_BYTES = 500 * 1024  # SES: a template is at most 500 kB, all parts together
MAX_TEMPLATE_PAGE = 100  # SES: ListEmailTemplates returns at most 100 a page

_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_CONFIGURATION_SET = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMED = re.compile(
    r'(?:"(?:[^"\\\r\n]|\\[^\r\n])*"|[^<>",:;@\\\r\n]*)\s*<([^<>]+)>'
)  # RFC 5322: else a name needs quotes
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(
    rf'(?=.{{1,64}}@)(?:{_ATOM}(?:\.{_ATOM})*|"[ !#-\[\]-~]+")@(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*'
)


def address_fault(address: str) -> str | None:
    """Why SES would refuse `address`, bare or as `Name <address>`, or None. SES has no SMTPUTF8."""
    named = _NAMED.fullmatch(address)
    bare = named[1] if named else address
    if _ADDRESS.fullmatch(bare):
        return None
    if not bare.isascii():
        return "Illegal address: the local part must be ASCII and the domain Punycode"
    return "Illegal address" if "@" in bare else "Missing final '@domain'"


def recipients(destination: Mapping[str, list[str]]) -> list[str]:
    """All addresses of a `Destination`, which may lack any of its lists."""
    return [address for addresses in destination.values() for address in addresses]


def destination_fault(addresses: list[str]) -> str | None:
    """Why SES would refuse to send one message to these, or None."""
    if not 1 <= len(addresses) <= MAX_RECIPIENTS:
        return f"A message has 1 to {MAX_RECIPIENTS} recipients"
    return next(filter(None, map(address_fault, addresses)), None)


def check_sender(request: Mapping[str, Any]) -> None:
    """Refuse a request without a sender, or with an illegal address beside the recipients'."""
    if "FromEmailAddress" not in request:
        raise bad_request("FromEmailAddress is required")
    for address in (request["FromEmailAddress"], *request.get("ReplyToAddresses", ())):
        if fault := address_fault(address):
            raise bad_request(fault)


def check_entries(entries: list[Any]) -> None:
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise bad_request(f"BulkEmailEntries must have 1 to {MAX_ENTRIES} entries")


def check_configuration_set(name: str | None) -> None:
    if name is not None and not _CONFIGURATION_SET.fullmatch(name):
        raise bad_request("ConfigurationSetName must be 1 to 64 of A-Z a-z 0-9 _ -")


def check_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The tags by name; one with any other character than A-Z a-z 0-9 _ - is refused."""
    for tag in tags:
        if not (_TAG.fullmatch(tag["Name"]) and _TAG.fullmatch(tag["Value"])):
            raise bad_request("A tag's name and value must be 1 to 256 of A-Z a-z 0-9 _ -")
    return {tag["Name"]: tag["Value"] for tag in tags}


def check_headers(headers: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The headers by name."""
    if any(len(header["Name"]) + len(header["Value"]) > MAX_HEADER_CHARACTERS for header in headers):
        raise bad_request(f"A header's name and value must have at most {MAX_HEADER_CHARACTERS} characters together")
    return {header["Name"]: header["Value"] for header in headers}


def check_template(content: Mapping[str, str]) -> None:
    if sum(len(part.encode()) for part in content.values()) > MAX_TEMPLATE_BYTES:
        raise bad_request("A template is at most 500 kB")


def from_json(text: str) -> Any:
    """What is in JSON as every program reads it; ValueError and RecursionError for anything else.

    Python alone takes NaN, numbers beyond all bounds and halves of characters, and then no page could show them.
    """
    value = _JSON.decode(text)
    if _HALF.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(digits)
    return value


_JSON = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def template_data(text: str) -> dict[str, Any] | None:
    """The object that `text` is in JSON, or None if it is none."""
    try:
        value = from_json(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def template_name(choice: Mapping[str, Any]) -> str | None:
    """The name in a `Template` or in a request about one; an ARN ends in it."""
    arn: str = choice.get("TemplateArn", "")
    name: str | None = choice.get("TemplateName", arn.rpartition("/")[2] or None)
    return name
