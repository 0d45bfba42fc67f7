"""`templates`: the texts of the mails, from a folder to SES, and which of them are used."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from difflib import unified_diff
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy import Connection

from mailroom import handlebars, settings, templates
from mailroom.cli import template_preview
from mailroom.cli.manual import ending
from mailroom.cli.terminal import new_table, print_json, print_table, say
from mailroom.cli.wiring import open_database
from mailroom.errors import MailroomError
from mailroom.job import Action
from mailroom.ops import templates as ours
from mailroom.queue import lanes
from mailroom.settings import Settings
from mailroom.templates import Content, Folder, samples, starter
from mailroom.templates.folder import Value

if TYPE_CHECKING:
    from mailroom.ses.templates import Templates

app = typer.Typer(
    help="Bring templates from a folder to SES.\n\n"
    "docs/templates.md describes the folder, and `init` writes one to begin with. A row of the database says which\n"
    "template an action uses.",
    no_args_is_help=True,
)

FolderPath = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of templates.", show_default="./templates")]
HERE = Path("templates")
OnlyAction = Annotated[
    str | None, typer.Option("--action", metavar="NAME", help="Only this action.", show_default="all in the folder")
]


@app.command(epilog=ending("mailroom templates init --name Shop --site https://shop.example"))
def init(
    folder: FolderPath = HERE,
    *,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of your site in the mails.")] = starter.NAME,
    site: Annotated[str, typer.Option("--site", metavar="URL", help="Where the links lead.")] = starter.SITE,
) -> None:
    """Write a folder of templates to begin with.

    It has texts for activation and password_recovery in English and German, and a layout. Nothing is overwritten.
    """
    starter.write(folder, name=name, site=site)
    say(f"wrote {folder}: change the texts, then `mailroom templates push {quote(str(folder))} --use`")


@app.command("list", epilog=ending("mailroom templates list"))
def list_templates(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what was pushed and what is used."""
    with open_database(settings.load("database_url"), writes=False) as engine, engine.connect() as connection:
        found = ours.listing(connection)
    if as_json:
        print_json([asdict(each) for each in found], default=lambda moment: moment.isoformat())
        return
    table = new_table("name", "action", "languages", "pushed", "used by")
    for each in found:
        languages = " ".join(f"{tag} (default)" if tag == each.default_language else tag for tag in each.languages)
        pushed = f"{each.created_at:%Y-%m-%d %H:%M %Z}" if each.created_at else "by hand"
        table.add_row(each.name, each.action, languages, pushed, " ".join(each.uses))
    print_table(table)


@app.command(epilog=ending("mailroom templates diff templates --check"))
def diff(
    folder: FolderPath = HERE,
    *,
    action: OnlyAction = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 if the texts in use differ from the folder.")] = False,
) -> None:
    """Compare the folder with what is used.

    It says whether SES has the templates of the folder, and shows how they differ from the ones in use.
    """
    given = settings.load("database_url")
    with open_database(given, writes=False) as engine, engine.connect() as connection:
        actions = lanes.read(connection).actions
    at_ses = _ses(given)
    stale = 0
    for content, kind in _checked(templates.read(folder), actions, action):
        there = at_ses.find(content.name)
        is_same = there == dict(content.parts.items())
        used = kind.template == content.name
        stale += not (used and is_same)
        has = "has not" if there is None else "has" if is_same else "has with other texts: somebody changed it"
        say(
            f"{kind}: the folder has {content.name} ({' '.join(content.languages)}), which SES"
            f" {has}; {'it' if used else kind.template} is used"
        )
        if not (used and is_same):
            for line in _changes(kind.template, at_ses.find(kind.template), content):
                say(line)
    if check and stale:
        raise typer.Exit(1)


@app.command(epilog=ending("mailroom templates push templates --use"))
def push(
    folder: FolderPath = HERE,
    *,
    action: OnlyAction = None,
    use_it: Annotated[bool, typer.Option("--use", help="Use what was pushed.")] = False,
) -> None:
    """Check the folder and bring it to SES.

    Missing templates are created. The name of a template has a hash of its texts, so a template is never changed, and
    mails in flight keep theirs. SES renders each template in all its languages before it counts as pushed. SES accepts
    one such call a second.
    """
    given = settings.load("database_url")
    with open_database(given) as engine:
        with engine.connect() as connection:
            actions = lanes.read(connection).actions
        read = templates.read(folder)
        checked = list(_checked(read, actions, action))
        at_ses = _ses(given)
        for content, kind in checked:
            _push(at_ses, content, kind, read.data.get(kind, {}))
            with engine.connect() as connection:
                ours.add(
                    connection,
                    content.name,
                    action=kind,
                    languages=content.languages,
                    default_language=content.default_language,
                )
        for content, kind in checked:
            if use_it:
                with engine.connect() as connection:
                    _use(connection, kind, content.name)
            elif (used := actions[kind].template) != content.name:
                say(f"{kind}: still uses {used}; to change that: mailroom templates use {kind} {content.name}")


@app.command(epilog=ending("mailroom templates preview templates --to preview"))
def preview(
    folder: FolderPath = HERE,
    *,
    action: OnlyAction = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Write files here.", show_default="no files")
    ] = None,
    send: Annotated[
        str | None,
        typer.Option("--send", metavar="ADDRESS", help="Mail them to this address.", show_default="no mails"),
    ] = None,
) -> None:
    """Show every mail in every language.

    Each is shown with an ordinary name, a long one, a right-to-left one, and one with HTML in it. Writing files needs
    no database and no SES. To mail previews, push the templates first. Their links lead nowhere.
    """
    read = templates.read(folder)
    contents = [templates.compose(read, each) for each in _chosen(read, action)]
    template_preview.show(contents, read, to=to, send=send)


@app.command(epilog=ending("mailroom templates use activation activationv1 --unpushed"))
def use(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="Action.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Template.", show_default=False)],
    *,
    unpushed: Annotated[bool, typer.Option("--unpushed", help="Accept one that was made by hand.")] = False,
) -> None:
    """Use another template for an action.

    It applies to mails that leave from now on. To go back, run the same command with the name of the template before.
    """
    with open_database(settings.load("database_url")) as engine, engine.connect() as connection:
        _use(connection, action, name, unpushed=unpushed)


def _use(connection: Connection, action: str, name: str, *, unpushed: bool = False) -> None:
    before = ours.use(connection, action, name, unpushed=unpushed)
    if before == name:
        say(f"{action}: uses {name}, as before")
        return
    pushed = any(
        (each.name, each.action) == (before, action) and each.created_at is not None
        for each in ours.listing(connection)
    )
    way_back = f"mailroom templates use {action} {before}{'' if pushed else ' --unpushed'}"
    say(f"{action}: uses {name}; the way back: {way_back}")


def _ses(given: Settings) -> "Templates":
    from mailroom import ses  # noqa: PLC0415 - boto3 takes a third of a second and 17 MB: only who asks SES pays
    from mailroom.ses.templates import Templates  # noqa: PLC0415 - as above

    return Templates(ses.connect_to_ask(region=given.aws_region))


def _chosen(folder: Folder, action: str | None) -> list[str]:
    if action is not None and action not in folder.texts:
        raise MailroomError(f"the folder has no action {action}, but {', '.join(folder.texts)}")
    return [action] if action is not None else list(folder.texts)


def _checked(folder: Folder, actions: Mapping[str, Action], action: str | None) -> Iterator[tuple[Content, Action]]:
    """Return the templates of the folder, all of which are good. Else says what is not, and raises MailroomError."""
    chosen = _chosen(folder, action)
    for each in chosen:
        if each not in actions:
            raise MailroomError(f"there is no action {each}: `mailroom actions list` shows them")
    found = [
        problem for each in chosen for problem in templates.problems(folder, each, has_code=actions[each].has_code)
    ]
    for problem in found:
        say(problem)
    if found:
        raise MailroomError(f"nothing was done: the folder has {len(found)} problem{'s' if found[1:] else ''}")
    return ((templates.compose(folder, each), actions[each]) for each in chosen)


def _changes(name: str, before: Mapping[str, str] | None, content: Content) -> Iterator[str]:
    for part, text in content.parts.items():
        old = (before or {}).get(part, "").splitlines()
        yield from unified_diff(old, text.splitlines(), f"{name} {part}", f"{content.name} {part}", lineterm="", n=1)


def _push(at_ses: "Templates", content: Content, kind: Action, data: Mapping[str, Value]) -> None:
    """Push a template, and have SES render it in each language: it has to be the text that the folder has."""
    is_new = at_ses.push(content.name, dict(content.parts.items()))
    for language in content.languages:
        given = samples.template_json("ordinary", data, content.chosen(language), has_code=kind.has_code)
        theirs = at_ses.render(content.name, given)
        for part, text in content.parts.items():
            own = handlebars.Template(text).render(samples.parsed(given))
            if theirs[part].split() != own.split():
                raise MailroomError(f"SES makes another {part} of {content.name} in {language} than is expected")
    say(f"{content.name}: {'created' if is_new else 'was there'}, and rendered by SES in {' '.join(content.languages)}")
