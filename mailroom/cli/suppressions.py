"""`suppressions`: addresses that are not mailed, why, and letting them be mailed again. Addresses are kept nowhere."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from sqlalchemy import Connection

from mailroom import settings
from mailroom.cli.ids import positive
from mailroom.cli.manual import ending
from mailroom.cli.terminal import in_utc, new_table, print_json, print_table, printable, say
from mailroom.cli.wiring import open_database
from mailroom.errors import MailroomError, SettingsError, TransportError
from mailroom.ops import suppressions
from mailroom.ops.suppressions import Suppression

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client
    from rich.table import Table

STDIN: Final = "-"
# RFC 5321: the longest that a path may be, and more.
MAX_ADDRESS: Final = 320
# Of a longer line only this much is read, which is too long for an address: the line may have no end.
MAX_LINE: Final = 4_096
# What stands in place of bytes that are no UTF-8.
NOT_UTF8: Final = "\ufffd"
# RFC 5322: no address has these, unless in quotes. Who writes them means several, or one with something around it.
_SPECIALS: Final = re.compile(r'[()<>\[\]:;,\\"@]')
_DOMAIN: Final = re.compile(r"(?:[A-Za-z0-9._-]|[^\x00-\x7f])+|\[[A-Za-z0-9.:-]+\]")
GLOBAL_LIST: Final = "SES's global list, which nobody can ask, may hold an address that bounced for up to 14 days more"

app = typer.Typer(
    help="List and change who is not mailed.\n\nmailroom keeps only a hash of an address. A list shows how it begins.",
    no_args_is_help=True,
)

Addresses = Annotated[
    list[str],
    typer.Argument(
        metavar="ADDRESS", show_default=False, help="Addresses. With - they are read from stdin, one a line."
    ),
]
Here = Annotated[bool, typer.Option("--here", help="Only in the database. SES's own list is left alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog=ending("mailroom suppressions list --reason bounce"))
def list_suppressed(
    *,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            show_default="any",
            help=f"Only with this reason: {', '.join(suppressions.REASONS)}. May be repeated.",
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="HASH", show_default="none", help="Continue a list after this hash.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="INTEGER", callback=positive, help="Show at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List addresses that are not mailed.

    They are in the order of their hashes. For more than --limit, give the last hash with --after.
    """
    for each in reason or ():
        if each not in suppressions.REASONS:
            raise SettingsError(f"{each!r} is not a reason: give {', '.join(suppressions.REASONS)}")
    if after is not None and not (len(after) == 16 and set(after) <= set("0123456789abcdef")):
        raise SettingsError("--after: give the 16 letters and digits of a hash, as a list shows them")
    with _open(writes=False) as connection:
        found = list(suppressions.find(connection, reasons=reason or (), after=after, limit=limit))
    if as_json:
        print_json([asdict(each) for each in found], default=datetime.isoformat)
    elif found:
        print_table(_table(found))
    else:
        say("no suppressed addresses")


@app.command(epilog=ending("mailroom suppressions show ada@example.com --here"))
def show(addresses: Addresses, *, here: Here = False, as_json: AsJson = False) -> None:
    """Show why addresses are not mailed.

    It asks the database, and SES's own list.
    """
    given = settings.load("database_url")
    wanted = _read(addresses)
    client = None if here else _client(given.aws_region)
    with _open(writes=False) as connection:
        found = [suppressions.find_address(connection, address) for address in wanted]
    at_ses = [None if client is None else _ask_ses(client, address) for address in wanted]
    if as_json:
        told = [asdict(row) | {"ses": listed} for row, listed in zip(found, at_ses, strict=True)]
        print_json(told, default=datetime.isoformat)
        return
    for row, listed in zip(found, at_ses, strict=True):
        say(f"{row.hash}: {_words(row)}")
        if listed is not None:
            say(f"{row.hash}: SES {_ses_words(listed)}")


@app.command(epilog=ending("mailroom suppressions add ada@example.com"))
def add(addresses: Addresses, *, as_json: AsJson = False) -> None:
    """Mail nothing to addresses any more.

    This includes recoveries, and lasts until `mailroom suppressions release`. SES's own list is not changed.
    """
    wanted = _read(addresses)
    done: list[dict[str, Any]] = []
    try:
        with _open() as connection:
            for address in wanted:
                known, added = suppressions.add(connection, address)
                done.append({"hash": known, "added": added})
                if not as_json:
                    say(f"{known}: {'suppressed' if added else 'was suppressed by hand already'}")
    finally:
        if as_json and (done or not wanted):  # also what was done before something came in the way
            print_json(done)


@app.command(epilog=ending("mailroom suppressions release ada@example.com --here"))
def release(addresses: Addresses, *, here: Here = False, as_json: AsJson = False) -> None:
    """Let addresses be mailed again.

    They are taken off SES's own list, and released in the database. Earlier bounces and complaints no longer suppress
    them; the next bounce does. `mailroom jobs retry --outcome suppressed` sends the mails that were not sent.

    If SES does not answer, this address and those after it are not released. If the credentials may not do that, it is
    a warning.
    """
    given = settings.load("database_url")
    wanted = _read(addresses)
    client = None if here else _client(given.aws_region)
    done: list[dict[str, Any]] = []
    try:
        with _open() as connection:
            for address in wanted:
                at_ses = None if client is None else _remove_at_ses(client, address)
                known, was = suppressions.release(connection, address)
                done.append({"hash": known, "was": was, "ses": at_ses})
                if not as_json:
                    what = "was not suppressed" if was is None else f"released ({was})"
                    say(f"{known}: {what}{_REMOVED[at_ses]}")
    finally:
        if as_json and (done or not wanted):  # also what was done before something came in the way
            print_json(done)
    if client is not None and not as_json:
        say(GLOBAL_LIST)


# What became of an address at SES, in words behind what became of it here.
_REMOVED: Final = {
    None: "",
    "removed": ", and taken off SES's list",
    "not listed": ", and not on SES's list",
    "not allowed": "; warning: these credentials may not take it off SES's list (ses:DeleteSuppressedDestination)",
}


@contextmanager
def _open(*, writes: bool = True) -> Iterator[Connection]:
    with open_database(settings.load("database_url"), writes=writes) as engine, engine.connect() as connection:
        yield connection


def _client(region: str | None) -> "SESV2Client":
    from mailroom import ses  # noqa: PLC0415 - boto3 takes a third of a second: only who asks SES pays

    return ses.connect_to_ask(region=region)


def _read(given: Sequence[str]) -> list[str]:
    """Return the addresses that are meant, each once. What is none is told by its place: it may be personal too."""
    found: dict[str, None] = {}
    lines = _lines() if list(given) == [STDIN] else (address.strip() for address in given)
    for place, address in enumerate(lines, start=1):
        if not _is_one(address):
            raise SettingsError(f"number {place} is not an address")
        found[address] = None
    return list(found)


def _is_one(given: str) -> bool:
    """Whether it is one address, and nothing else: of anything else the hash would fit nobody."""
    local_part, at, domain = given.rpartition("@")
    is_quoted = len(local_part) > 2 and local_part[0] == local_part[-1] == '"'
    return (
        bool(local_part and at and _DOMAIN.fullmatch(domain))
        and (is_quoted or _SPECIALS.search(local_part) is None)
        and len(given) <= MAX_ADDRESS
        and given.isprintable()
        and " " not in given
        and NOT_UTF8 not in given
    )


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise SettingsError("the standard input is closed: there are no addresses to read")
    source = iter(lambda: sys.stdin.buffer.readline(MAX_LINE), b"")
    lines = (line.decode("utf-8-sig", errors="replace").strip() for line in source)
    return (line for line in lines if line)


def _ask_ses(client: "SESV2Client", address: str) -> dict[str, Any]:
    """Return whether the address is on SES's list, with why and since when; None: these credentials may not ask."""
    from mailroom.ses import suppression_list  # noqa: PLC0415 - see above

    try:
        listed = suppression_list.find(client, address)
    except TransportError as error:
        if str(error) in suppression_list.DENIALS:
            return {"listed": None, "reason": None, "at": None}
        raise MailroomError(f"SES's list could not be asked: {error}; --here asks the database alone") from error
    if listed is None:
        return {"listed": False, "reason": None, "at": None}
    return {"listed": True, "reason": listed.reason, "at": listed.at}


def _remove_at_ses(client: "SESV2Client", address: str) -> str:
    from mailroom.ses import suppression_list  # noqa: PLC0415 - see above

    try:
        return "removed" if suppression_list.remove(client, address) else "not listed"
    except TransportError as error:
        if str(error) in suppression_list.DENIALS:
            return "not allowed"
        raise MailroomError(
            f"SES did not take it off its list: {error}; this address and those behind it are not released"
        ) from error


def _table(found: Sequence[Suppression]) -> "Table":
    table = new_table("hash", "reason", "type", "subtype", "since", "released")
    for row in found:
        cells = (row.hash, row.reason, row.type, row.subtype, in_utc(row.since), in_utc(row.released_at))
        table.add_row(*(printable(cell or "") for cell in cells))
    return table


def _words(row: Suppression) -> str:
    if row.reason is not None:
        told = " ".join(filter(None, (row.reason, row.type, row.subtype)))
        return f"not mailed since {in_utc(row.since)}: {told}"
    ended = max(filter(None, (row.lifted_at, row.released_at)), default=None)
    known = any((row.bounced_at, row.soft_at, row.complained_at, row.added_at))
    return f"mailed again since {in_utc(ended)}" if known and ended else "mailed"


def _ses_words(listed: dict[str, Any]) -> str:
    if listed["listed"] is None:
        return "cannot be asked: these credentials may not (ses:GetSuppressedDestination)"
    if not listed["listed"]:
        return "does not have it on its list"
    return f"has it on its list since {in_utc(listed['at'])}: {listed['reason']}"
