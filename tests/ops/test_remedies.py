"""Each pause and each warning has a cure, and `doctor` uses the same words."""

import re
from typing import Any

import pytest
from typer.main import get_command

from mailroom import finding
from mailroom.cli.app import command_line
from mailroom.ops import remedies, reputation
from mailroom.ses import classify
from mailroom.ses.classify import Fault
from tests.kinds import ACTIVATION
from tests.machine import ROOT

SCOPES = {
    Fault.ACCOUNT: "account",
    Fault.DENIED: "account",
    Fault.CONFIGURATION_SET: "configuration_set",
    Fault.IDENTITY: "identity",
    Fault.TEMPLATE: ACTIVATION,
    Fault.MAIL: ACTIVATION,
    # A throttle that is the day's quota.
    Fault.THROTTLED: "account",
}
CODES = sorted((classify.EXCEPTIONS | classify.STATUSES).items(), key=lambda each: each[0])


@pytest.mark.parametrize(("code", "fault"), [each for each in CODES if each[1] in SCOPES])
def test_every_fault_that_pauses_has_a_cure_of_its_own(code: str, fault: Fault) -> None:
    if code == "ACCOUNT_THROTTLED":
        return  # of a single mail: never the quota
    cure = remedies.of_pause(SCOPES[fault], code)
    assert cure
    assert not cure.startswith(remedies.ASK_DOCTOR), code


def test_an_action_that_a_policy_denies_is_to_be_allowed() -> None:
    assert remedies.of_pause(ACTIVATION, "AccessDeniedException").startswith("allow ses:SendEmail")


def test_what_is_paused_by_hand_or_cannot_be_probed_is_resumed_by_name() -> None:
    assert remedies.of_pause("queue:big news", "ByHand").startswith(
        "somebody paused it: `mailroom resume 'queue:big news'`"
    )
    unrendered = remedies.of_pause(ACTIVATION, "RenderingFailure")
    # What is pushed and not used leaves the broken one in use, and each mail pays with an attempt.
    assert "`mailroom templates push --use`, then `mailroom resume activation`" in unrendered
    for code in reputation.CODES:
        assert "`mailroom suppressions list`" in remedies.of_pause("priority:2", code)


def test_a_code_that_nobody_knows_yet_still_has_a_way_out() -> None:
    assert remedies.of_pause("account", "TeapotException") == remedies.ASK_DOCTOR
    assert "`mailroom doctor`" in remedies.of_pause("priority:1", "TeapotException")


@pytest.mark.parametrize(
    "code", ["OldTransaction", "DeadRows", "NoAutovacuum", "OverdueBatch", "QueueUnread", "FeedSilent"]
)
def test_every_warning_of_the_manual_has_a_cure_of_its_own(code: str) -> None:
    assert f"| `{code}` |" in (ROOT / "docs" / "operating.md").read_text()
    assert remedies.of_warning(code) != remedies.of_warning("OldJob0")
    assert "{" not in remedies.of_warning(code)


def test_doctor_says_the_same_of_the_account() -> None:
    """Both take it from mailroom/finding.py: no remedy of the account is spelt out twice."""
    for module in ("ses/doctor.py", "ops/remedies.py"):
        assert "put-account-sending-attributes" not in (ROOT / "mailroom" / module).read_text()
    assert remedies.of_pause("account", "SendingPausedException") == finding.SWITCH_SENDING_ON


@pytest.mark.parametrize(
    "module", ["ops/remedies", "ops/endings", "ops/why", "ops/needs", "ops/causes", "finding", "window/acting"]
)
def test_each_command_that_is_advised_is_there_with_its_options(module: str) -> None:
    source = (ROOT / "mailroom" / f"{module}.py").read_text()
    for advised in re.findall(r"`(?:\{named\})?mailroom ([^`]+)`", source):
        command: Any = get_command(command_line(()))
        for word in advised.split():
            if word.startswith("--"):
                assert any(word in parameter.opts for parameter in command.params), advised
            elif hasattr(command, "commands"):
                command = command.commands[word]


@pytest.mark.parametrize(
    "module", ["ops/remedies", "ops/endings", "ops/why", "ops/needs", "ops/causes", "finding", "window/acting"]
)
def test_each_command_that_is_advised_lacks_nothing(module: str) -> None:
    """What stands in capitals somebody has to fill in, and sees it; what is not there at all nobody sees."""
    source = (ROOT / "mailroom" / f"{module}.py").read_text()
    for advised in re.findall(r"`(?:\{named\})?mailroom ([^`]+)`", source):
        words = re.sub(r"\{[^}]*\}|\b[A-Z]+\b", "1", advised).split()
        command: Any = get_command(command_line(()))
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(advised, words).close()
