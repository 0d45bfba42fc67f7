"""`actions`: the kinds of mail that there are, adding one, and changing what a row says."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import typer
from psycopg import errors, sql
from sqlalchemy.exc import DBAPIError

from mailroom import settings
from mailroom.cli import action_options as options
from mailroom.cli.job_options import read_age
from mailroom.cli.manual import ending
from mailroom.cli.terminal import new_table, print_json, print_table, say
from mailroom.cli.wiring import open_database
from mailroom.db import functions
from mailroom.db.engine import first_line
from mailroom.errors import MailroomError, SettingsError
from mailroom.job import Priority
from mailroom.mail.sender import sender

app = typer.Typer(
    help="List, add or change kinds of mail.\n\n"
    "A kind of mail is a row of `actions`. A running worker takes up a change with its next look.",
    no_args_is_help=True,
)


@app.command("list", epilog=ending("mailroom actions list"))
def list_actions(*, as_json: options.AsJson = False) -> None:
    """List the kinds of mail."""
    with open_database(settings.load("database_url"), writes=False) as engine, engine.connect() as connection:
        found = [row._asdict() for row in functions.call(connection, "action_list")]
    if as_json:
        print_json(found)
        return
    table = new_table("number", "name", "template", "path", "life", "code", "priority", "needs", "limits", "")
    for row in found:
        limits = " ".join(
            f"{row[column]} {words}"
            for column, words in (("per_15_minutes", "in 15 minutes"), ("per_day", "a day"))
            if row[column] is not None
        )
        flags = " ".join(flag.replace("_", "-") for flag in ("renews", "newest_only", "activates") if row[flag])
        life = str(timedelta(seconds=row["life_seconds"]))
        table.add_row(
            *(str(row["number"]), row["name"], row["template"], row["path"], life, "yes" if row["has_code"] else ""),
            *(Priority(row["priority"]).name.lower(), row["needs"], limits, flags),
        )
    print_table(table)


@app.command(epilog=ending("mailroom actions add magic_link --template magiclinkv1 --path /enter"))
def add(  # noqa: PLR0913 - an option each
    name: options.Name,
    *,
    template: options.NewTemplate,
    path: options.Path,
    number: options.Number = None,
    code: options.Code = False,
    life: options.NewLife = "15m",
    priority: options.NewPriority = "normal",
    needs: options.NewNeeds = "active",
    per_15_minutes: options.NewPer15Minutes = options.NO_LIMIT,
    per_day: options.NewPerDay = options.NO_LIMIT,
    renews: options.Renews = None,
    newest_only: options.NewestOnly = None,
    activates: options.Activates = None,
    as_sql: options.AsSql = False,
) -> None:
    """Add a kind of mail.

    Name, number, path and code cannot be changed later, because links and lines that are out rely on them.
    """
    given = _row(template, life, priority, needs, per_15_minutes, per_day)
    row = {"name": name, "number": number, "path": path, "has_code": code, **given}
    row |= {"renews": bool(renews), "newest_only": bool(newest_only), "activates": bool(activates)}
    row |= {limit: None if row[limit] == -1 else row[limit] for limit in ("per_15_minutes", "per_day")}
    if as_sql:
        if number is None:
            raise SettingsError("--sql needs --number: in every database it has to be the same")
        for line in _insert(row, settings.load().schema_name).splitlines():
            say(line)
        return
    say(f"added {name} with the number {_call({'action_add': row})[0]}")


@app.command("set", epilog=ending("mailroom actions set password_recovery --per-day 20"))
def change(  # noqa: PLR0913 - an option each
    name: options.Name,
    *,
    template: options.Template = None,
    life: options.Life = None,
    priority: options.Level = None,
    needs: options.Needs = None,
    per_15_minutes: options.Per15Minutes = None,
    per_day: options.PerDay = None,
    renews: options.Renews = None,
    newest_only: options.NewestOnly = None,
    activates: options.Activates = None,
    source: options.Source = None,
    reply_to: options.ReplyTo = None,
) -> None:
    """Change a kind of mail.

    Options that are not given change nothing. Template, status, limits and addresses apply to mails that leave from now
    on; life and priority apply to mails that are requested from now on. A limit counts mails from when the action first
    had one.
    """
    row = {"name": name, **_row(template, life, priority, needs, per_15_minutes, per_day)}
    row |= {"renews": renews, "newest_only": newest_only, "activates": activates}
    senders = {"name": name, "source": _sender(source, "--source"), "reply_to": _sender(reply_to, "--reply-to")}
    given = {
        function: changed
        for function, changed in (("action_set", row), ("action_sender_set", senders))
        if any(value is not None for column, value in changed.items() if column != "name")
    }
    if not given:
        raise SettingsError("name what is to be different: `mailroom actions set --help` lists it")
    if not all(_call(given)):
        raise MailroomError(f"there is no action {name}")
    say(f"changed {name}")


def _row(
    template: str | None,
    life: str | None,
    priority: str | None,
    needs: str | None,
    per_15_minutes: str | None,
    per_day: str | None,
) -> dict[str, Any]:
    """Return the columns as they are stored; None is as it is."""
    if priority is not None and priority not in options.PRIORITIES:
        raise SettingsError(f"--priority: {priority!r} is not accepted: give {', '.join(options.PRIORITIES)}")
    if needs is not None and needs not in options.STATUSES:
        raise SettingsError(f"--needs: {needs!r} is not accepted: give {', '.join(options.STATUSES)}")
    return {
        "template": template,
        "life": _life(life),
        "priority": None if priority is None else options.PRIORITIES[priority],
        "needs": needs,
        "per_15_minutes": _limit(per_15_minutes, "--per-15-minutes"),
        "per_day": _limit(per_day, "--per-day"),
    }


def _sender(given: str | None, option: str) -> str | None:
    """Return a sender as it is stored; an empty text is that there is none."""
    if given is None or given == options.NO_LIMIT:
        return None if given is None else ""
    try:
        return sender(given)
    except ValueError as error:
        raise SettingsError(f"{option}: {given!r} is not accepted: {error}") from None


def _life(given: str | None) -> timedelta | None:
    if given is None:
        return None
    life = read_age(given)
    if life is None:
        raise SettingsError(f"--life: {given!r} is not accepted: give a time as in 15m, 2h or 7d")
    return life


def _limit(given: str | None, option: str) -> int | None:
    """Return a limit; -1 is that there is none."""
    if given is None:
        return None
    if given == options.NO_LIMIT:
        return -1
    if re.fullmatch(r"[0-9]{1,6}", given) is None:
        raise SettingsError(f"{option}: {given!r} is not accepted: give a number up to 999999, or {options.NO_LIMIT}")
    return int(given)


def _insert(row: Mapping[str, Any], schema: str) -> str:
    values = (
        value if not isinstance(value, timedelta) else f"{value // timedelta(seconds=1)} s" for value in row.values()
    )
    return (
        sql.SQL("INSERT INTO {table} ({columns})\nVALUES ({values});")
        .format(
            table=sql.Identifier(schema, "actions"),
            columns=sql.SQL(", ").join(map(sql.Identifier, row)),
            values=sql.SQL(", ").join(map(sql.Literal, values)),
        )
        .as_string()
    )


def _call(given: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Call functions, each with its row, all of them or none. What the database does not accept is a wrong setting."""
    with (
        open_database(settings.load("database_url")) as engine,
        engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
        connection.begin(),
    ):
        try:
            return [functions.call(connection, function, row).scalar() for function, row in given.items()]
        except DBAPIError as error:
            if not isinstance(error.orig, errors.IntegrityError | errors.DataError):
                raise
            rule = options.RULES.get(error.orig.diag.constraint_name or "")
            words = ": ".join(filter(None, (first_line(error), rule)))
            raise SettingsError(f"the database does not accept it: {words}") from error
