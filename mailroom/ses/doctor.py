"""What can be wrong at SES before the first mail fails of it, each with its remedy."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from email.utils import parseaddr
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from mailroom import finding
from mailroom.errors import TransportError
from mailroom.finding import Finding, failed, ok, warning
from mailroom.job import Action
from mailroom.mail import templates
from mailroom.ses import classify, network
from mailroom.ses.account import MAX_ANSWER
from mailroom.ses.account import account as ask_account
from mailroom.ses.request import as_header

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
# The beginning of an inline partial, which has a name and needs no value.
_INLINE: Final = re.compile(r"""#\*\s*inline\s+["'](.+)["']""")
# What is no variable in a tag: a comment, the end of a block, its other branch.
_MARKS: Final = re.compile(r"!|/|else\b")


def examine(
    client: "SESV2Client",
    *,
    source: str,
    config_set: str,
    actions: Sequence[Action],
    flags: Mapping[str, Iterable[str]],
) -> list[Finding]:
    """Check the account, the sender, the configuration set and the template of each action.

    `flags`: what each template is told of the language of a mail, by its name.
    """
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("account", lambda: _account(client)),
        *(("identity", lambda sender=sender: [_identity(client, sender)]) for sender in _senders(source, actions)),
        ("configuration set", lambda: [_config_set(client, config_set)]),
        *((f"template {action.template}", partial(_templates, client, action, flags)) for action in actions),
    ]
    return [finding for name, check in checks for finding in _checked(name, check)]


def _senders(source: str, actions: Sequence[Action]) -> list[str]:
    """Return the address of each sender, that of most mails first."""
    named = [source, *(action.source for action in actions if action.source)]
    return list(dict.fromkeys(parseaddr(as_header(each))[1] for each in named))


def _checked(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Make a check, or say what keeps it from being made."""
    try:
        return network.with_deadline(lambda: list(check()), within=MAX_ANSWER)
    except network.FailedError as error:
        code = str(error.cause) if isinstance(error.cause, TransportError) else error.code
        return [_unanswered(name, code)]


def _unanswered(name: str, code: str) -> Finding:
    if code in classify.DENIALS:
        return warning(
            name, "these credentials may not look", "allow what docs/operating.md lists for doctor, or look by hand"
        )
    return failed(name, f"SES could not be asked: {code}", "check network, AWS_REGION, credentials and endpoint")


def _account(client: "SESV2Client") -> Iterator[Finding]:
    found = ask_account(client)
    used = found.sent_last_24_hours / found.max_24_hour_send if found.max_24_hour_send else 1.0
    quota = f"{found.sent_last_24_hours:.0f} of {found.max_24_hour_send:.0f} mails sent in 24 hours"
    if found.enforcement == "SHUTDOWN":
        yield failed("account", "SES has suspended it", finding.SEE_THE_CASE)
    elif found.enforcement not in {"HEALTHY", ""}:
        yield warning("account", f"under review: {found.enforcement}", finding.SEE_BOUNCES)
    if not found.sending_enabled:
        yield failed("account", "sending is paused", finding.SWITCH_SENDING_ON)
    if found.max_send_rate == 0:
        yield failed("account", "SES allows it 0 mails a second", finding.SEE_THE_CASE)
    if not found.production_access:
        yield warning("account", "in the sandbox: only verified addresses receive", finding.LEAVE_SANDBOX)
    if used >= 1:
        yield failed("account", f"the quota is used up: {quota}", finding.WAIT_FOR_QUOTA)
    elif used >= MUCH_OF_THE_QUOTA:
        yield warning("account", f"the quota is nearly used up: {quota}", finding.RAISE_QUOTA)
    elif found.max_24_hour_send < 0:
        yield ok("account", "no quota")
    else:
        yield ok("account", quota)


def _identity(client: "SESV2Client", address: str) -> Finding:
    """Look for a verified identity: the address, its domain, or one that the domain belongs to. Any will do."""
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
        return failed("identity", f"{known[0]} is not verified", finding.VERIFY_SENDER)
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
        return failed("configuration set", f"{name} does not exist", finding.MAKE_CONFIG_SET)
    if not answer.get("SendingOptions", {}).get("SendingEnabled", True):
        return failed("configuration set", f"{name} may not send", finding.ENABLE_CONFIG_SET)
    return ok("configuration set", f"{name} is there")


def _templates(client: "SESV2Client", action: Action, flags: Mapping[str, Iterable[str]]) -> list[Finding]:
    return [_template(client, action, flags.get(action.template, ()))]


def _template(client: "SESV2Client", action: Action, flags: Iterable[str]) -> Finding:
    name = action.template
    check = f"template {name}"
    try:
        content: Any = client.get_email_template(TemplateName=name)["TemplateContent"]
    except ClientError as error:
        if classify.error_code(error.response) != _MISSING:
            raise
        by_hand = f"aws sesv2 create-email-template --template-name {name} …"
        return failed(check, "does not exist", f"`mailroom templates push --use`; or by hand: {by_hand}")
    used = {variable for part in content.values() for variable in variables(str(part))}
    given = set(json.loads(templates.template_data(login="", secret="", code="" if action.has_code else None)))
    if "secret" not in used:
        return failed(check, "has no {{secret}}: its mails have no link", "put the link in")
    if unfilled := used & RESERVED - given:
        message = f"uses {_listed(unfilled)}, which {action} has not: SES will refuse every mail"
        return failed(check, message, f"use only {', '.join(sorted(given))}, and data of request_mail")
    if unknown := used - given - set(flags):
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
    tags = [tag.strip().lstrip("~").rstrip("~").strip() for tag in _TAG.findall(_COMMENT.sub("", template))]
    inline = {begins[1] for tag in tags if (begins := _INLINE.fullmatch(tag))}
    for words in tags:
        if _MARKS.match(words) or _INLINE.fullmatch(words) or (words[:1] == ">" and words[1:].strip() in inline):
            continue
        opens = words[:1] in {"#", "^"}
        names = words.split()[1:] if opens else [words.lstrip("&> ").strip()]
        found.update(name for name in names if name)
    return found
