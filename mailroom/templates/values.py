"""What values of a mail could make of its texts: a link that leads elsewhere, a mail without one, another tag."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Final

from mailroom.handlebars import RenderingError, Template
from mailroom.templates.folder import PARTS, Value
from mailroom.templates.samples import CODE, SAMPLES, SECRET, login_json, parsed

HOSTILE: Final = SAMPLES["html"]
# Two logins that look alike: where they make another link, some other login makes one that is broken.
LOGINS: Final = ("ada", "bob")
_TAG: Final = re.compile(r"""<!--.*?-->|<[A-Za-z/](?:[^<>"']|"[^"]*"|'[^']*')*>""", re.DOTALL)
_QUOTED: Final = re.compile(r""""[^"]*"|'[^']*'""")
# Some of what a browser takes for one is closed at once.
_COMMENT: Final = re.compile(r"<!--(?:-?>|.*?(?:--!?>|\Z))", re.DOTALL)
# From the last scheme on: not all languages have blanks around a link.
_LINK: Final = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]{{0,30}}://(?:(?!://)\S)*{SECRET}[!-~]*")


def problems(
    whole: Mapping[str, Template], data: Mapping[str, Value], chosen: Mapping[str, str], *, has_code: bool
) -> Iterator[str]:
    """Say what is wrong with some values and not with others. `chosen` is the language that is looked at."""

    def written(part: str, login: str, given: Mapping[str, Value]) -> str:
        return whole[part].render(parsed(login_json(login, given, chosen, has_code=has_code)))

    needed = {"secret": SECRET, "code": CODE} if has_code else {"secret": SECRET}
    try:
        for part in ("text", "html"):
            one, other = (_links(part, written(part, login, data)) for login in LOGINS)
            if one != other:
                yield f"{PARTS[part]}: has the login in the link, and would break it: nothing is encoded for URLs"
            for where, given in _others(data):
                text = shown(part, written(part, LOGINS[0], given))
                if lacking := [name for name, value in needed.items() if value not in text]:
                    missing = f"{{{{{lacking[0]}}}}} is not written where {where}"
                    yield f"{PARTS[part]}: {missing}: the mail would be of no use"
                    break
        if _is_unquoted(written("html", HOSTILE, _hostile(data))):
            yield f"{PARTS['html']}: has a value in a tag without quotes around it, and would make more of the tag"
    except RenderingError as error:
        yield f"with other values: {error}"


def shown(part: str, text: str) -> str:
    """Return what somebody may see of a text: nothing of a comment."""
    return _COMMENT.sub("", text) if part == "html" else text


def _links(part: str, text: str) -> list[str]:
    """Return the links with a token in them; of HTML also what stands in quotes."""
    if part != "html":
        return _LINK.findall(text)
    quoted = [value for tag in _TAG.findall(text) for value in _QUOTED.findall(tag) if SECRET in value]
    return [*quoted, *_LINK.findall(_TAG.sub(" ", text))]


def _others(data: Mapping[str, Value]) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Give the data with each value changed into one that a condition takes for the opposite, and with all of them."""
    others = {name: _other(value) for name, value in data.items()}
    for name, value in others.items():
        yield f"{name} is {value!r}", {**data, name: value}
    if len(others) > 1:
        yield "all of its data is otherwise", others


def _other(value: Value) -> Value:
    match value:
        case bool():
            return not value
        case str():
            return "" if value else "x"
        case _:
            return 0 if value else 1


def _hostile(data: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return the data with HTML in each text, but where there was none: it may be asked whether there is."""
    return {name: HOSTILE if isinstance(value, str) and value else value for name, value in data.items()}


def _is_unquoted(text: str) -> bool:
    """Whether what is escaped stands in a tag, and not in quotes, where its blanks begin another attribute."""
    return any(html.escape(HOSTILE) in _QUOTED.sub("", tag) for tag in _TAG.findall(text) if tag[1] != "!")
