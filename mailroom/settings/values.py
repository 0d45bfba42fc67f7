"""What the values of the environment may be, and how each is read: as a type, or with an error that says what is."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_settings import NoDecode

from mailroom.db.engine import URL_FORMS, connection_string
from mailroom.errors import SettingsError
from mailroom.mail.sender import sender

MIN_RATE: Final = 0.01
MAX_NAME_BYTES: Final = 63  # PostgreSQL's
MAX_PORT: Final = 65_535
LOOPBACK: Final = "127.0.0.1"
# How many characters of a refused value are shown. Nothing is shown of one that looks like a key, or like a URL or a
# libpq string with a password: it belongs to another variable.
MAX_SHOWN: Final = 100
_LOOKS_SECRET: Final = re.compile(r"://.*@|passw(or)?d\s*=|[0-9a-f]{64}", re.IGNORECASE | re.DOTALL)


def shown(value: object) -> str:
    """Return a value as a message may show it."""
    words = repr(value)
    if _LOOKS_SECRET.search(str(value)[:10_000]):
        return "its value"
    return words if len(words) <= MAX_SHOWN else f"{words[:MAX_SHOWN]}…"


def _milliseconds(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if re.fullmatch(r"[0-9]{1,9}", str(value)) is None:
        raise ValueError("a whole number of milliseconds, at most 999999999")
    return timedelta(milliseconds=int(str(value)))


def days(value: object) -> timedelta | None:
    """Read a number of days, such as 90d. Raises ValueError, which says what is accepted."""
    if value is None or isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"([1-9][0-9]{0,3})d", str(value))
    if found is None:
        raise ValueError("a number of days, 1d to 9999d")
    return timedelta(days=int(found[1]))


def _secret_keys(value: object) -> tuple[bytes, ...]:
    if isinstance(value, tuple):
        return value
    if re.fullmatch(r"[0-9a-fA-F]{64}(,[0-9a-fA-F]{64})*", str(value)) is None:
        raise ValueError("64 hex digits, or several such keys with commas between them")
    return tuple(bytes.fromhex(key) for key in str(value).split(","))


def _rate(value: object) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", str(value)) is None or float(str(value)) < MIN_RATE:
        raise ValueError(f"a number a second, at least {MIN_RATE:g}")
    return float(str(value))


def _mail_rate(value: object) -> float | None:
    return None if value in (None, "") else _rate(value)


def _call_rate(value: object) -> float | None:
    return None if value in (None, "unlimited") else _rate(value)


def matching(pattern: str, meaning: str) -> AfterValidator:
    """Take words that match a pattern as a whole; of others say what they should be."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(meaning)
        return value

    return AfterValidator(check)


def _database_url(value: str, info: ValidationInfo) -> str:
    try:
        connection_string(value)
    except (SettingsError, UnicodeError):  # what the latter says has a piece of it
        raise ValueError(URL_FORMS) from None
    return value


def _channel(value: str) -> str:
    # LISTEN cuts a longer name off, and NOTIFY refuses it: nothing would be heard.
    if re.fullmatch(r"[^\s\ud800-\udfff]+", value) is None or len(value.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ValueError(f"1 to {MAX_NAME_BYTES} characters without blanks, at most {MAX_NAME_BYTES} bytes in UTF-8")
    return value


def _schema(value: str) -> str:
    # PostgreSQL keeps the first two for itself, and reads the third in a search_path as the name of the role.
    kept = value.startswith("pg_") or value in ("information_schema", "$user")
    unwritable = re.search(r"[\0\ud800-\udfff]", value)  # a surrogate: the environment is not UTF-8
    if kept or unwritable or not 1 <= len(value.encode(errors="replace")) <= MAX_NAME_BYTES:
        raise ValueError(
            f"the name of a schema, 1 to {MAX_NAME_BYTES} bytes in UTF-8, not pg_…, information_schema or $user"
        )
    return value


def _address(value: object) -> tuple[str, int] | None:
    if value in (None, ""):
        return None
    if isinstance(value, tuple):
        return value
    found = re.fullmatch(r"(?:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):)?([0-9]{1,5})", str(value))
    if found is None or int(found[2]) > MAX_PORT:
        raise ValueError("a port, or an address and a port, as in 9464, 0.0.0.0:9464 or [::]:9464")
    return (found[1] or LOOPBACK).strip("[]"), int(found[2])


def _folder(value: object) -> object:
    return None if value == "" else value  # Path("") is the folder that the process was started in


def _region(value: object) -> object:
    return (value.strip() or None) if isinstance(value, str) else value


def _sender(value: str) -> str:
    try:
        return sender(value, may_be_local=True)
    except ValueError as error:
        raise ValueError(f"an ASCII sender address: {error}") from None


Milliseconds = Annotated[timedelta, BeforeValidator(_milliseconds)]
Queue = Annotated[str, matching(r"[^\s\ud800-\udfff]{1,63}", "1 to 63 characters without blanks, in UTF-8")]
Days = Annotated[timedelta | None, BeforeValidator(days)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
Schema = Annotated[str, AfterValidator(_schema)]
Channel = Annotated[str, AfterValidator(_channel)]
SecretKeys = Annotated[tuple[bytes, ...], NoDecode, BeforeValidator(_secret_keys)]
MailRate = Annotated[float | None, BeforeValidator(_mail_rate)]
CallRate = Annotated[float | None, BeforeValidator(_call_rate)]
Sender = Annotated[str, AfterValidator(_sender)]
Region = Annotated[str | None, BeforeValidator(_region)]
# RFC 7617: none of these can be typed into a login.
Password = Annotated[
    str,
    matching(
        r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{12,}|", "at least 12 characters, in UTF-8, without control characters"
    ),
]
Folder = Annotated[Path | None, BeforeValidator(_folder)]
Address = Annotated[tuple[str, int] | None, NoDecode, BeforeValidator(_address)]

# URLs: of a queue of SQS, of a queue of anything else that speaks its protocol, and of one on this machine.
SQS: Final = re.compile(r"https://[A-Za-z0-9.-]+\.(?:amazonaws\.com(?:\.cn)?|api\.aws)/[0-9]{12}/[A-Za-z0-9_-]{1,80}")
QUEUE: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/[!-~]+")
ON_LOOPBACK: Final = re.compile(r"https?://(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::([0-9]{1,5}))?(?=/)")
