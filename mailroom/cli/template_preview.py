"""Previews of templates: as files, or as mails."""

import html
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mailroom import handlebars, settings
from mailroom.cli.terminal import say
from mailroom.cli.wiring import open_transport
from mailroom.errors import MailroomError, SettingsError, TransportError
from mailroom.fleet.buckets import DEFAULT_SHARE
from mailroom.job import Action
from mailroom.mail.debug import DebugTransport
from mailroom.mail.transport import Mail
from mailroom.outcome import Answer, Deferred, Scope, Sent
from mailroom.settings import Settings
from mailroom.templates import Content, Folder
from mailroom.templates.samples import CODE, SAMPLES, SECRET, parsed, template_json

if TYPE_CHECKING:
    from mailroom.ses import SesTransport

# SES: in the sandbox. So also where it may not be asked.
LEAST_RATE: Final = 1.0
# When SES says that it is too many, since others send too.
MAX_TURNS: Final = 5
TURN_SECONDS: Final = 1.0
THROTTLED: Final = "SES takes no more now. Try again later, and see the quota in `mailroom doctor`"


def show(contents: Sequence[Content], folder: Folder, *, to: Path | None, send: str | None) -> None:
    """Write each sample in each language into a folder, or mail it to an address."""
    if (to is None) == (send is None):
        raise SettingsError("say where the previews go: --to FOLDER, or --send ADDRESS")
    if send is not None:
        _send(contents, folder, send)
    elif to is not None:
        try:
            _write(contents, folder, to)
        except OSError as error:
            raise MailroomError(f"{error.filename or to}: {error.strerror}") from error


def _write(contents: Iterable[Content], folder: Folder, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    written = []
    for content in contents:
        data = folder.data.get(content.action, {})
        for language in content.languages:
            for sample in SAMPLES:
                given = parsed(template_json(sample, data, content.chosen(language), has_code=True))
                name = f"{content.action}.{language}.{sample}"
                try:
                    mail = {part: handlebars.Template(text).render(given) for part, text in content.parts.items()}
                except (handlebars.TemplateError, handlebars.RenderingError) as error:
                    raise MailroomError(f"{content.action}/{language}: {error}") from error
                _put(to / f"{name}.txt", f"Subject: {mail['subject']}\n\n{mail['text']}\n")
                _put(to / f"{name}.html", mail["html"] + "\n")
                written.append((name, mail["subject"]))
    _put(to / "index.html", _index(written))
    say(f"wrote {len(written)} mails: see {to / 'index.html'}")


def _put(file: Path, text: str) -> None:
    """Write a file in the place of what has its name: a pipe would wait for a reader, a link would lead elsewhere."""
    file.unlink(missing_ok=True)
    with file.open("x", encoding="utf-8") as new:
        new.write(text)


def _index(written: Sequence[tuple[str, str]]) -> str:
    rows = "\n".join(
        f'<li><a href="{name}.html">{name}</a> (<a href="{name}.txt">text</a>): {html.escape(subject)}</li>'
        for name, subject in written
    )
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>Previews</title>\n<ul>\n{rows}\n</ul>\n'


def _send(contents: Iterable[Content], folder: Folder, address: str) -> None:
    given = settings.load()
    transport = open_transport(given, connections=1, output_path=None)
    wait = _wait(given, transport)
    count = 0
    for content in contents:
        action = Action(content.action, number=1, template=content.name, path="/", has_code=True)
        for mail in _mails(content, folder, address):
            time.sleep(wait if count else 0)
            _send_one(transport, action, mail)
            count += 1
    say(f"sent {count} mails")


def _mails(content: Content, folder: Folder, address: str) -> Iterator[Mail]:
    for language in content.languages:
        data = json.dumps({**folder.data.get(content.action, {}), **content.chosen(language)})
        for login in SAMPLES.values():
            yield Mail(token=None, address=address, login=login, secret=SECRET, code=CODE, data=data)


def _wait(given: Settings, transport: "SesTransport | DebugTransport") -> float:
    """Return the seconds between two mails: no permits are drawn here, where there need not be a database."""
    if isinstance(transport, DebugTransport):
        return 0.0
    rate = given.ses_rate
    if rate is None:
        try:
            allowed = transport.account().max_send_rate
        except TransportError:
            allowed = LEAST_RATE
        rate = DEFAULT_SHARE * allowed
    return 1 / rate if rate > 0 else 0.0


def _send_one(transport: "SesTransport | DebugTransport", action: Action, mail: Mail) -> None:
    for left in reversed(range(MAX_TURNS)):
        [outcome] = transport.send(action, [mail], batch=None)
        if isinstance(outcome, Sent):
            return
        throttled = outcome.code in transport.throttles
        if not throttled or not left:
            remedy = THROTTLED if throttled else _remedy(outcome)
            raise MailroomError(f"{action.template} was not sent: {outcome.code}; {remedy}")
        time.sleep(TURN_SECONDS)


def _remedy(outcome: Answer) -> str:
    if isinstance(outcome, Deferred) and outcome.scope is Scope.ACTION:
        return "is it pushed?"
    return "`mailroom doctor` looks for what is wrong"
