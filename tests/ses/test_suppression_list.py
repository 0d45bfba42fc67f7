"""SES's own list: asked for the address that mail goes to, as it is written there."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mailroom import ses
from mailroom.errors import TransportError
from mailroom.ses import suppression_list
from mailroom.ses.suppression_list import Listed
from mailroom.simulator import Fault, Simulator
from mailroom.simulator.suppression import Suppressed
from tests.cli.command import aws

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def client(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> "SESV2Client":
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    return ses.connect_to_ask(region="us-east-1")


def listed(simulator: Simulator) -> dict[str, str]:
    return {entry.address: entry.reason for entry in simulator.suppression.all()}


@pytest.mark.parametrize(
    ("kept", "address"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada@example.com", "Ada@Example.com"),
        ("ada@example.com", "ADA@example.com"),
        ("ada+x@xn--bcher-kva.example", "ada+x@bücher.example"),
    ],
)
def test_an_address_is_found_and_taken_off(
    simulator: Simulator, client: "SESV2Client", kept: str, address: str
) -> None:
    simulator.suppression.put(Suppressed(kept, "BOUNCE", updated_at=SINCE))
    simulator.suppression.put(Suppressed("other@example.com", "COMPLAINT"))
    assert suppression_list.find(client, address) == Listed("BOUNCE", SINCE)
    assert suppression_list.remove(client, address)
    assert listed(simulator) == {"other@example.com": "COMPLAINT"}
    assert suppression_list.find(client, address) is None
    assert not suppression_list.remove(client, address)


def test_an_address_that_ses_cannot_mail_is_not_asked_for(simulator: Simulator, client: "SESV2Client") -> None:
    simulator.faults.add(Fault(error="BadRequestException", times=None))
    assert suppression_list.find(client, "ada@localhost") is None
    assert not suppression_list.remove(client, "ada@localhost")


@pytest.mark.parametrize("code", ["AccessDeniedException", "BadRequestException"])
def test_a_refusal_is_told_by_its_code(simulator: Simulator, client: "SESV2Client", code: str) -> None:
    simulator.faults.add(Fault(error=code, times=None))
    with pytest.raises(TransportError, match=code):
        suppression_list.find(client, "ada@example.com")
    with pytest.raises(TransportError, match=code):
        suppression_list.remove(client, "ada@example.com")


@pytest.mark.slow
def test_a_list_that_is_asked_too_often_is_asked_again(simulator: Simulator, client: "SESV2Client") -> None:
    """SES takes one such call a second, and a list of addresses must come to its end."""
    simulator.suppression.put(Suppressed("ada@example.com", "BOUNCE"))
    for operation in ("GetSuppressedDestination", "DeleteSuppressedDestination"):
        simulator.faults.add(Fault(operation=operation, error="TooManyRequestsException", times=7))
    assert suppression_list.find(client, "ada@example.com") is not None
    assert suppression_list.remove(client, "ada@example.com")


@pytest.mark.slow
def test_a_list_that_is_never_answered_is_told_in_the_end(simulator: Simulator, client: "SESV2Client") -> None:
    simulator.faults.add(Fault(error="TooManyRequestsException", times=None))
    with pytest.raises(TransportError, match="TooManyRequestsException"):
        suppression_list.remove(client, "ada@example.com")
