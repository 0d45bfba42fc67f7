"""What is wrong with templates, said before anything is pushed."""

from collections.abc import Iterator, Mapping
from typing import Final

from mailroom import handlebars
from mailroom.mail.templates import LANGUAGE_PREFIX
from mailroom.templates import values
from mailroom.templates.compose import Content, compose
from mailroom.templates.folder import PARTS, Folder, Parts, Value
from mailroom.templates.samples import CODE, SAMPLES, SECRET, parsed, template_json

# SES: the subject, the text and the HTML of a template together.
MAX_BYTES: Final = 500_000
# RFC 5322: of a line of a header. SES encodes what is not ASCII, which makes it longer.
MAX_SUBJECT: Final = 900


def problems(folder: Folder, action: str, *, has_code: bool) -> list[str]:
    """Return what is wrong with the texts of an action, each on a line with the file that it is in; none is fine."""
    data = folder.data.get(action, {})
    found = [
        f"{action}/{language}/{PARTS[part]}: {problem}"
        for language, parts in folder.texts[action].items()
        for part, text in parts.items()
        for problem in _of_part(part, text, data, has_code=has_code)
    ]
    if found:
        return found
    content = compose(folder, action)
    return [f"{action}: {problem}" for problem in _of_whole(content, folder.texts[action], data, has_code=has_code)]


def _of_part(part: str, text: str, data: Mapping[str, Value], *, has_code: bool) -> Iterator[str]:
    if not text.strip():
        yield "is empty"
        return
    if text.startswith("}") or text.endswith(("{", "\\")):
        yield "begins or ends with a brace or a backslash, which would become part of a tag"
    if part == "subject" and not _is_one_line(text):
        yield "has more than one line"
    try:
        template = handlebars.Template(text)
    except handlebars.TemplateError as error:
        yield str(error)
        return
    if loops := template.helpers & {"each", "with"}:
        yield f"uses {min(loops)}, and a mail has no lists or objects"
    used = {path.text for path in template.paths}
    yield from _unknown(part, used, data, has_code=has_code)
    needed = {"secret", "code"} if has_code else {"secret"}
    if part != "subject" and (lacking := needed - used):
        yield f"has no {{{{{min(lacking)}}}}}: the mail would be of no use"
    if part == "subject" and (shown := used & {"secret", "code"}):
        yield f"uses {min(shown)}: a subject is shown on locked screens, and kept in logs"


def _unknown(part: str, used: set[str], data: Mapping[str, Value], *, has_code: bool) -> Iterator[str]:
    """Say what is used that a mail is not given, or not for such a part."""
    texts = {"login", *(name for name, value in data.items() if isinstance(value, str))}
    known = {"login", "secret", *data, *(f"{name}_text" for name in texts), *(["code"] if has_code else [])}
    for name in sorted(used):
        if name not in known:
            yield f"uses {name}, and a mail of this action has only {', '.join(sorted(known))}"
        elif part == "html" and name.removesuffix("_text") in texts and name.endswith("_text"):
            yield f"uses {name}, which is raw, in HTML: use {name.removesuffix('_text')}"
        elif part != "html" and name in texts:
            yield f"uses {name}, which is escaped for HTML: use {name}_text"


def _of_whole(
    content: Content, texts: Mapping[str, Parts], data: Mapping[str, Value], *, has_code: bool
) -> Iterator[str]:
    size = sum(len(text.encode()) for _, text in content.parts.items())
    if size > MAX_BYTES:
        yield f"its languages have {size} bytes together, and SES takes {MAX_BYTES}"
        return
    try:
        whole = _compiled(content.parts)
    except handlebars.TemplateError as error:  # too many languages lie in each other
        yield str(error)
        return
    for language, parts in texts.items():
        alone = _compiled(parts)
        for sample in SAMPLES:
            given = parsed(template_json(sample, data, content.chosen(language), has_code=has_code))
            for part, template in whole.items():
                problem = _of_sample(part, template, alone[part], given)
                if problem is not None:
                    yield f"{language}, {PARTS[part]}, for {sample}: {problem}"
        for problem in values.problems(whole, data, content.chosen(language), has_code=has_code):
            yield f"{language}, {problem}"


def _compiled(parts: Parts) -> dict[str, handlebars.Template]:
    return {part: handlebars.Template(text) for part, text in parts.items()}


def _of_sample(
    part: str, whole: handlebars.Template, alone: handlebars.Template, given: Mapping[str, Value]
) -> str | None:
    """Render a sample from the whole template, and from its own text alone: it must be the same mail."""
    try:
        rendered = whole.render(given)
        own = alone.render({name: value for name, value in given.items() if not name.startswith(LANGUAGE_PREFIX)})
    except handlebars.RenderingError as error:
        return str(error)
    if rendered.strip() != own.strip():
        return "is another text beside the other languages than alone: begin and end it with a word"
    if not rendered.strip():
        return "is empty"
    if part == "subject":
        return _of_subject(rendered)
    for name, written in (("secret", SECRET), ("code", CODE)):
        if name in given and written not in values.shown(part, rendered):
            return f"{{{{{name}}}}} is not written: the mail would be of no use"
    return None


def _of_subject(rendered: str) -> str | None:
    if not _is_one_line(rendered):
        return "has more than one line"
    if len(rendered.encode()) > MAX_SUBJECT:
        return f"the subject has more than {MAX_SUBJECT} bytes: put no login in it, or less besides"
    return None


def _is_one_line(text: str) -> bool:
    """Whether nobody sees more lines in it, by whatever sign of a line's end."""
    return "".join(text.splitlines()) == text
