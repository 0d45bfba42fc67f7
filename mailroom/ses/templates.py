"""Templates at SES: whether one is there, making it, and having SES itself render it."""

import time
from collections.abc import Callable, Mapping
from email import message_from_bytes, policy
from email.message import MIMEPart
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import ClientError
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from mailroom.errors import MailroomError, TransportError
from mailroom.ses import classify, network
from mailroom.ses.account import MAX_ANSWER

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

T = TypeVar("T")

# SES: creating templates and rendering them, once a second each; some more, for two clocks that differ. Whoever else
# does so at the same time takes a turn too.
PACE_SECONDS: Final = 1.05
MAX_TURNS: Final = 5
# How much is shown of what SES says about a template. It holds nobody's data.
MAX_SAID: Final = 200
_PARTS: Final = {"subject": "Subject", "text": "Text", "html": "Html"}
_MISSING: Final = "NotFoundException"
_THERE: Final = "AlreadyExistsException"


class Templates:
    """The templates of an account at SES. Raises TransportError for what SES refuses, or does not answer."""

    def __init__(self, client: "SESV2Client") -> None:
        self._client = client
        self._next_at: dict[str, float] = {}

    def find(self, name: str) -> dict[str, str] | None:
        """Return the subject, text and html of a template, None if there is none of that name."""
        try:
            answer: Any = _asked(lambda: self._client.get_email_template(TemplateName=name), "GetEmailTemplate", name)
        except _RefusedError as error:
            if error.code == _MISSING:
                return None
            raise
        content = _member(answer, "TemplateContent", "GetEmailTemplate")
        return {part: str(content.get(theirs, "")) for part, theirs in _PARTS.items()}

    def push(self, name: str, parts: Mapping[str, str]) -> bool:
        """Create a template, and return whether it is new: under its name there is nothing else.

        Raises MailroomError if somebody put something else there.
        """
        found = self.find(name)
        if found is None:
            content = {_PARTS[part]: text for part, text in parts.items()}
            try:
                self._paced(
                    lambda: self._client.create_email_template(TemplateName=name, TemplateContent=content),  # type: ignore[arg-type]  # its keys are not literal
                    "CreateEmailTemplate",
                    name,
                )
            except _RefusedError as error:
                if error.code != _THERE:  # by an answer that was lost, or by somebody else just now
                    raise
                found = self._made_by_others(name)
            else:
                return True
        if found != dict(parts):
            raise MailroomError(f"SES has another template under the name {name}: somebody changed it; delete it there")
        return False

    def _made_by_others(self, name: str) -> dict[str, str]:
        """Return what is under a name that is taken. Made a moment ago, it may not be known everywhere at SES yet."""
        for _ in range(MAX_TURNS):
            found = self.find(name)
            if found is not None:
                return found
            time.sleep(PACE_SECONDS)
        raise TransportError(f"SES says that {name} is there, and does not find it: try again")

    def render(self, name: str, data: str) -> dict[str, str]:
        """Return the subject, text and html that SES itself makes of a template and a JSON object."""
        answer: Any = self._paced(
            lambda: self._client.test_render_email_template(TemplateName=name, TemplateData=data),
            "TestRenderEmailTemplate",
            name,
        )
        # As bytes: read as text, a part that is declared as 8bit would lose what is not ASCII.
        written = str(_member(answer, "RenderedTemplate", "TestRenderEmailTemplate")).encode(errors="replace")
        mail = message_from_bytes(written, policy=policy.default)
        return {
            "subject": str(mail["Subject"] or ""),
            "text": _content(mail.get_body(("plain",))),
            "html": _content(mail.get_body(("html",))),
        }

    def _paced(self, question: Callable[[], T], operation: str, name: str) -> T:
        """Put a question of a kind that SES takes once a second, as soon as it takes it."""
        turns = Retrying(
            retry=retry_if_exception(_is_throttled),
            stop=stop_after_attempt(MAX_TURNS),
            reraise=True,
        )

        def turn() -> T:
            time.sleep(max(0.0, self._next_at.get(operation, 0.0) - time.monotonic()))
            self._next_at[operation] = time.monotonic() + PACE_SECONDS
            return _asked(question, operation, name)

        return turns(turn)


class _RefusedError(TransportError):
    """SES said no; `code` is its word for that."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


def _is_throttled(error: BaseException) -> bool:
    return isinstance(error, _RefusedError) and error.code in classify.THROTTLES


def _member(answer: Mapping[str, Any], name: str, operation: str) -> Any:
    if name not in answer:
        raise TransportError(f"SES gave no answer to {operation} that can be read: it has no {name}")
    return answer[name]


def _content(part: MIMEPart | None) -> str:
    """Return the text of a part. One that names no charset, or one that is of no use, is read as UTF-8."""
    content = part.get_payload(decode=True) if part is not None else None
    if part is None or not isinstance(content, bytes):
        return ""
    charset = part.get_content_charset("us-ascii")
    try:
        return content.decode("utf-8" if charset == "us-ascii" else charset, errors="replace")
    except (LookupError, ValueError):  # nobody knows it, or it cannot replace what it cannot read
        return content.decode(errors="replace")


def _asked(question: Callable[[], T], operation: str, name: str) -> T:
    try:
        return network.asked(question, within=MAX_ANSWER)
    except network.FailedError as error:
        if not isinstance(error.cause, ClientError):
            raise TransportError(f"SES gave no answer to {operation}: {error.code}") from error.cause
        said = str(error.cause.response.get("Error", {}).get("Message", ""))[:MAX_SAID]
        remedy = ": these credentials may not do it" if error.code in classify.DENIALS else f": {said}"
        raise _RefusedError(error.code, f"SES refuses {operation} for {name}: {error.code}{remedy}") from error.cause
