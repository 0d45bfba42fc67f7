"""What every request says besides its mails: tags, headers, no tracking, and who sends it."""

import copy
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import botocore.session
import pytest
from botocore.model import ServiceModel
from botocore.validate import validate_parameters

from mailroom import ses
from mailroom.job import Action
from mailroom.mail.transport import Mail
from mailroom.outcome import Deferred, Scope, Sent
from mailroom.ses.request import Requests
from mailroom.simulator import Fault, Simulator
from tests.kinds import ACTIVATION
from tests.machine import closed_port
from tests.ses.calls import SOURCE, Connect, mails, send

SITE, FENCE = uuid4(), str(uuid4())
SHOP = Action(
    "activation",
    number=1,
    template="activationv1",
    path="/activate",
    source="Shop <shop@example.com>",
    reply_to="help@example.com",
)


@pytest.fixture
def nobody(connect: Connect) -> Any:
    """A client of nobody: nothing is sent."""
    return connect(f"http://127.0.0.1:{closed_port()}")


def written(client: Any, count: int, *, action: Action = ACTIVATION, batch: str | None = FENCE) -> dict[str, Any]:
    requests = Requests(client, source=SOURCE, config_set="default", site=SITE)
    asked = requests.write(action, [(mail, mail.address) for mail in mails(count)], batch=batch)
    shape = client.meta.service_model.operation_model("SendEmail" if count == 1 else "SendBulkEmail").input_shape
    validate_parameters(asked, shape)  # botocore's own judgement, which the client leaves out
    return asked


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_tracked(nobody: Any, count: int) -> None:
    tracking = {"OpenTrackingEnabled": "DISABLED", "ClickTrackingEnabled": "DISABLED"}
    assert written(nobody, count)["ConfigurationOverrides"] == {"Tracking": tracking}


@pytest.mark.parametrize(("count", "place"), [(1, "Content"), (3, "DefaultContent")])
def test_every_mail_says_that_a_machine_wrote_it(nobody: Any, count: int, place: str) -> None:
    assert written(nobody, count)[place]["Template"]["Headers"] == [
        {"Name": "Auto-Submitted", "Value": "auto-generated"},
        {"Name": "X-Auto-Response-Suppress", "Value": "All"},
    ]


def test_the_tags_are_the_token_the_fence_and_the_site(nobody: Any) -> None:
    def tags(found: list[dict[str, str]]) -> dict[str, str]:
        return {tag["Name"]: tag["Value"] for tag in found}

    ours = {"mailroom_batch": FENCE, "mailroom_site": str(SITE)}
    assert tags(written(nobody, 1)["EmailTags"]) == ours | {"mailroom_token": "0"}
    entries = written(nobody, 2)["BulkEmailEntries"]
    assert [tags(entry["ReplacementTags"]) for entry in entries] == [
        ours | {"mailroom_token": str(token)} for token in (0, 1)
    ]


def test_a_mail_from_a_line_has_no_tags(nobody: Any) -> None:
    requests = Requests(nobody, source=SOURCE, config_set="", site=SITE)
    mail = Mail(None, "a@example.com", "a", "s", "12345")
    assert requests.write(ACTIVATION, [(mail, mail.address)], batch=None)["EmailTags"] == []


@pytest.mark.parametrize("count", [1, 3])
def test_an_older_botocore_is_asked_for_nothing_that_it_does_not_know(count: int) -> None:
    model: Any = botocore.session.get_session().get_service_model("sesv2")
    older = copy.deepcopy(model._service_description)
    for shape, member in (("SendBulkEmailRequest", "ConfigurationOverrides"), ("Template", "Headers")):
        del older["shapes"][shape]["members"][member]
    client: Any = SimpleNamespace(meta=SimpleNamespace(service_model=ServiceModel(older, "sesv2")))
    requests = Requests(client, source=SOURCE, config_set="", site=None)
    asked = requests.write(ACTIVATION, [(mail, mail.address) for mail in mails(count)], batch=FENCE)
    assert "ConfigurationOverrides" not in asked
    assert "Headers" not in asked["Content" if count == 1 else "DefaultContent"]["Template"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_action_may_have_a_sender_of_its_own(nobody: Any, count: int) -> None:
    asked = written(nobody, count, action=SHOP)
    assert (asked["FromEmailAddress"], asked["ReplyToAddresses"]) == ("Shop <shop@example.com>", ["help@example.com"])
    usual = written(nobody, count)
    assert (usual["FromEmailAddress"], "ReplyToAddresses" in usual) == (SOURCE, False)


@pytest.mark.parametrize("count", [1, 3])
def test_a_name_that_an_update_wrote_without_quotes_gets_them(
    simulator: Simulator, transport: ses.SesTransport, count: int
) -> None:
    """SES takes what stands before a comma for an address, and refuses the call."""
    shop = Action(
        "activation", number=1, template="activationv1", path="/activate", source="Shop, Ltd. <shop@example.com>"
    )
    assert all(isinstance(outcome, Sent) for outcome in send(transport, mails(count), action=shop))
    assert {mail.source for mail in simulator.ledger.mails} == {'"Shop, Ltd." <shop@example.com>'}


@pytest.mark.parametrize(("action", "scope"), [(ACTIVATION, Scope.IDENTITY), (SHOP, Scope.ACTION)])
def test_a_sender_that_is_refused_keeps_only_its_own_mails(
    simulator: Simulator, transport: ses.SesTransport, action: Action, scope: Scope
) -> None:
    simulator.faults.add(Fault(error="MailFromDomainNotVerifiedException"))
    [outcome] = send(transport, mails(1), action=action)
    assert isinstance(outcome, Deferred)
    assert outcome.scope is scope


@pytest.mark.parametrize(("action", "scope"), [(ACTIVATION, Scope.ACCOUNT), (SHOP, Scope.ACTION)])
def test_so_does_one_that_a_policy_denies(
    simulator: Simulator, transport: ses.SesTransport, action: Action, scope: Scope
) -> None:
    simulator.faults.add(Fault(error="AccessDeniedException", status=403))
    [outcome] = send(transport, mails(1), action=action)
    assert isinstance(outcome, Deferred)
    assert outcome.scope is scope


def test_what_is_wrong_with_the_account_is_that_for_all_senders(
    simulator: Simulator, transport: ses.SesTransport
) -> None:
    simulator.faults.add(Fault(error="AccountSuspendedException"))
    [outcome] = send(transport, mails(1), action=SHOP)
    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.ACCOUNT
