"""What can be wrong at SES before the first mail fails of it, each with its remedy."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parseaddr
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from mailroom.errors import TransportError
from mailroom.finding import Finding, failed, ok, warning
from mailroom.job import Action
from mailroom.mail import templates
from mailroom.ses import classify, network
from mailroom.ses.account import MAX_ANSWER
from mailroom.ses.account import account as ask_account

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

# Variables of a template that are named: whoever uses more has other troubles.
MAX_NAMED: Final = 20
# From here on somebody should know.
MUCH_OF_THE_QUOTA: Final = 0.9
# What only an action can have, and no data: see is_template_data in alembic/versions.
RESERVED: Final = {"code"}
_MISSING: Final = "NotFoundException"
_TAG: Final = re.compile(r"\{\{\{?([^{}]*)\}?\}\}")
# A comment that may hold tags.
_COMMENT: Final = re.compile(r"\{\{~?!--.*?--~?\}\}", re.DOTALL)
# What is no variable in a tag: a comment, the end of a block, its other branch.
_MARKS: Final = re.compile(r"!|/|else\b")


def examine(client: "SESV2Client", *, source: str, config_set: str, actions: Sequence[Action]) -> list[Finding]:
    """Check the account, the sender, the configuration set and the template of each action."""
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("account", lambda: _account(client)),
        ("identity", lambda: [_identity(client, parseaddr(source)[1])]),
        ("configuration set", lambda: [_config_set(client, config_set)]),
        *((f"template {action.template}", lambda action=action: [_template(client, action)]) for action in actions),
    ]
    return [finding for name, check in checks for finding in _checked(name, check)]


def _checked(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Make a check, or say what keeps it from being made."""
    try:
        return network.with_deadline(lambda: list(check()), within=MAX_ANSWER)
    except network.FailedError as error:
        code = str(error.cause) if isinstance(error.cause, TransportError) else error.code
        return [_unanswered(name, code)]


def _unanswered(name: str, code: str) -> Finding:
    if code in classify.NOT_ALLOWED:
        return warning(
            name, "these credentials may not look", "allow what docs/operating.md lists for doctor, or look by hand"
        )
    return failed(name, f"SES could not be asked: {code}", "check network, AWS_REGION, credentials and endpoint")


def _account(client: "SESV2Client") -> Iterator[Finding]:
    found = ask_account(client)
    used = found.sent_last_24_hours / found.max_24_hour_send if found.max_24_hour_send > 0 else 0.0
    quota = f"{found.sent_last_24_hours:.0f} of {found.max_24_hour_send:.0f} mails sent in 24 hours"
    if found.enforcement == "SHUTDOWN":
        yield failed("account", "SES has suspended it", "see the case in the AWS console")
    elif found.enforcement not in {"HEALTHY", ""}:
        yield warning("account", f"under review: {found.enforcement}", "see bounces and complaints in the AWS console")
    if not found.sending_enabled:
        yield failed("account", "sending is paused", "aws sesv2 put-account-sending-attributes --sending-enabled")
    if not found.production_access:
        yield warning("account", "in the sandbox: only verified addresses receive", "ask AWS for production access")
    if used >= 1:
        yield failed("account", f"the quota is used up: {quota}", "wait, or ask AWS for a higher one")
    elif used >= MUCH_OF_THE_QUOTA:
        yield warning("account", f"the quota is nearly used up: {quota}", "ask AWS for a higher one")
    elif found.max_24_hour_send < 0:
        yield ok("account", "no quota")
    else:
        yield ok("account", quota)


def _identity(client: "SESV2Client", address: str) -> Finding:
    """The address, its domain, or one that the domain belongs to: any that is verified will do."""
    known = []
    for identity in _identities(address):
        try:
            answer = client.get_email_identity(EmailIdentity=identity)
        except ClientError as error:
            if classify.error_code(error.response) != _MISSING:
                raise
            continue
        if answer.get("VerifiedForSendingStatus"):
            return ok("identity", f"{identity} is verified")
        known.append(identity)
    if known:
        return failed(
            "identity", f"{known[0]} is not verified", "finish its verification: DKIM records, or the mail's link"
        )
    return failed(
        "identity", f"SES knows neither {address} nor its domain", "create the identity, or set MAILROOM_SES_SOURCE"
    )


def _identities(address: str) -> Iterator[str]:
    yield address
    labels = address.rpartition("@")[2].split(".")
    for first in range(max(1, len(labels) - 1)):
        yield ".".join(labels[first:])


def _config_set(client: "SESV2Client", name: str) -> Finding:
    if not name:
        return ok("configuration set", "none is used")
    try:
        answer = client.get_configuration_set(ConfigurationSetName=name)
    except ClientError as error:
        if classify.error_code(error.response) != _MISSING:
            raise
        return failed(
            "configuration set", f"{name} does not exist", "create it, or set MAILROOM_SES_CONFIG_SET, empty for none"
        )
    if not answer.get("SendingOptions", {}).get("SendingEnabled", True):
        return failed("configuration set", f"{name} may not send", "enable sending for it")
    return ok("configuration set", f"{name} is there")


def _template(client: "SESV2Client", action: Action) -> Finding:
    name = action.template
    check = f"template {name}"
    try:
        content: Any = client.get_email_template(TemplateName=name)["TemplateContent"]
    except ClientError as error:
        if classify.error_code(error.response) != _MISSING:
            raise
        return failed(check, "does not exist", f"aws sesv2 create-email-template --template-name {name} …")
    used = {variable for part in content.values() for variable in variables(str(part))}
    given = set(json.loads(templates.template_data(login="", secret="", code="" if action.has_code else None)))
    if "secret" not in used:
        return failed(check, "has no {{secret}}: its mails have no link", "put the link in")
    if unfilled := used & RESERVED - given:
        message = f"uses {_listed(unfilled)}, which {action} has not: SES will refuse every mail"
        return failed(check, message, f"use only {', '.join(sorted(given))}, and data of request_mail")
    if unknown := used - given:
        message = f"uses {_listed(unknown)}: SES will refuse every mail that was not asked for with that in its data"
        return warning(check, message, f"give it to request_mail, or use only {', '.join(sorted(given))}")
    if not content.get("Text"):
        return warning(check, "has no text part", "add one: some recipients see nothing else")
    return ok(check, f"is there, and uses {_listed(used)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join([classify.word(name) for name in sorted(names)][:MAX_NAMED])


def variables(template: str) -> set[str]:
    """Return the names that a template needs values for."""
    found: set[str] = set()
    for tag in _TAG.findall(_COMMENT.sub("", template)):
        words = tag.strip().lstrip("~").rstrip("~").strip()
        if _MARKS.match(words):
            continue
        opens = words[:1] in {"#", "^"}
        names = words.split()[1:] if opens else [words.lstrip("&> ").strip()]
        found.update(name for name in names if name)
    return found
