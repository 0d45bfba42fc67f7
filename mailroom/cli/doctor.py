"""`doctor`: a check a line, and the remedy for what it finds."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import DBAPIError

from mailroom import settings
from mailroom.cli.terminal import print_json, say
from mailroom.cli.wiring import ANSWER_WITHIN
from mailroom.db.engine import connect_engine, connection_string
from mailroom.errors import SettingsError
from mailroom.finding import Finding, Level, failed, ok, warning
from mailroom.job import Action
from mailroom.mail.sender import sender
from mailroom.mail.templates import language_flags
from mailroom.ops import templates
from mailroom.ops.doctor import examine
from mailroom.queue import lanes
from mailroom.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client


def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check everything that mailroom needs.

    That is settings, key, database, LISTEN and SES. Each problem is shown with its remedy. Nothing is sent, and nothing
    is changed.

    Exit 1 if a check fails. A warning is for you to judge.
    """
    findings = []
    for finding in _examine():
        findings.append(finding)
        if not as_json:
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            say(f"{finding.level:8}{finding.check}: {finding.message}{remedy}")
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.level is Level.FAILED for finding in findings):
        raise typer.Exit(1)


def _examine() -> Iterator[Finding]:
    try:
        given = settings.load()
    except SettingsError as error:
        yield failed("settings", str(error), "correct the variable, then run this again: nothing else was checked")
        return
    yield _variables()
    yield _key(given)
    yield from _database(given)
    yield from _ses(given)


def _variables() -> Finding:
    unknown = settings.unknown_variables()
    if unknown:
        return warning(
            "settings", f"unknown: {', '.join(unknown)}", "is it misspelt? `mailroom --help` lists all variables"
        )
    return ok("settings", "all variables can be read")


def _key(given: Settings) -> Finding:
    if not given.secret_key:
        return failed(
            "key",
            "MAILROOM_SECRET_KEY is not set",
            "set it to the key that your verifiers use; `openssl rand -hex 32` makes a new one",
        )
    return ok("key", "is set")


def _database(given: Settings) -> Iterator[Finding]:
    if not given.database_url:
        yield failed("database", "MAILROOM_DATABASE_URL is not set", "set it, as in postgresql://user@host/name")
        return
    engine = connect_engine(given.database_url, schema=given.schema_name, answer_within=ANSWER_WITHIN, writes=False)
    listening = connection_string(given.listen_database_url or given.database_url)
    try:
        channel, queue = given.channel_name, given.queue_name
        yield from examine(engine, listening=listening, channel=channel, queue=queue)
    finally:
        engine.dispose()


def _ses(given: Settings) -> list[Finding]:
    if given.debug:
        return [
            warning("ses", "MAILROOM_DEBUG is set: mails are printed, not sent", "unset it where mails are to be sent")
        ]
    from mailroom import ses  # noqa: PLC0415 - boto3 takes a third of a second: not before the rest is checked
    from mailroom.ses.doctor import examine as examine_ses  # noqa: PLC0415 - as above

    try:
        client = ses.connect_to_ask(region=given.aws_region)
    except SettingsError as error:
        return [failed("ses", str(error), "correct this setting")]
    found, flags = _actions(given)
    unread = [warning("templates", "not checked: the database does not say which there are", "see above")]
    return [
        *_senders(found),
        *examine_ses(client, source=given.ses_source, config_set=given.ses_config_set, actions=found, flags=flags),
        *([] if found else unread),
        *(_events(given, client) if given.events_queue_url else []),
    ]


def _senders(actions: list[Action]) -> Iterator[Finding]:
    """Say which addresses SES would refuse: a plain UPDATE may write what `mailroom actions set` does not take."""
    for action in actions:
        for column, address in (("source", action.source), ("reply_to", action.reply_to)):
            try:
                if address:
                    sender(address)
            except ValueError as error:
                option = f"--{column.replace('_', '-')}"
                yield failed(
                    f"sender {action}",
                    f"{column} of {action} is {address!r}, and is to be {error}",
                    f"mailroom actions set {action} {option} 'Shop <mail@example.com>', or {option} none",
                )


def _events(given: Settings, client: "SESV2Client") -> list[Finding]:
    from mailroom import ses  # noqa: PLC0415 - as above
    from mailroom.ses.event_doctor import examine_events  # noqa: PLC0415 - as above

    url = given.events_queue_url
    try:
        queue = ses.connect_to_queue(url, region=given.aws_region, connections=1, endpoint=given.events_endpoint)
    except SettingsError as error:
        return [failed("events queue", str(error), "correct this setting")]
    return examine_events(client, queue, config_set=given.ses_config_set, url=url)


def _actions(given: Settings) -> tuple[list[Action], dict[str, dict[str, str]]]:
    """Return the kinds of mail, and what each template is told of languages.

    Both are empty where the database cannot be asked, which is another finding.
    """
    if not given.database_url:
        return [], {}
    engine = connect_engine(given.database_url, schema=given.schema_name, answer_within=ANSWER_WITHIN, writes=False)
    try:
        with engine.connect() as connection:
            return list(lanes.read(connection).actions.values()), {
                each.name: language_flags(each.languages, each.default_language)
                for each in templates.listing(connection)
            }
    except DBAPIError:
        return [], {}
    finally:
        engine.dispose()
