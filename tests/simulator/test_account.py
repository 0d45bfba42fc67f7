"""The account: what GetAccount reports, and what its switches, its rate and its quota do to a send."""

import pytest
from mypy_boto3_sesv2 import SESV2Client
from pydantic import ValidationError

from mailroom.simulator import Account, Simulator
from mailroom.simulator.account import Usage
from mailroom.simulator.refusal import SesError
from tests.simulator.client import bulk, entry, single, statuses


def test_get_account_reports_quota_and_switches(ses: Simulator, client: SESV2Client) -> None:
    ses.account.max_24_hour_send = 200
    ses.account.max_send_rate = 14
    client.send_bulk_email(**bulk(entry(), entry()))
    account = client.get_account()
    assert account["SendQuota"] == {"Max24HourSend": 200.0, "MaxSendRate": 14.0, "SentLast24Hours": 2.0}
    assert (account["SendingEnabled"], account["EnforcementStatus"]) == (True, "HEALTHY")
    assert account["ProductionAccessEnabled"]


def test_a_paused_account_sends_nothing(ses: Simulator, client: SESV2Client) -> None:
    ses.account.sending_enabled = False
    with pytest.raises(client.exceptions.SendingPausedException):
        client.send_email(**single())
    assert not client.get_account()["SendingEnabled"]


def test_a_suspended_account_sends_nothing(ses: Simulator, client: SESV2Client) -> None:
    ses.account.enforcement_status = "SHUTDOWN"
    with pytest.raises(client.exceptions.AccountSuspendedException):
        client.send_bulk_email(**bulk(entry()))
    assert ses.ledger.mails == []


def test_in_the_sandbox_only_the_mailbox_simulator_receives(ses: Simulator, client: SESV2Client) -> None:
    ses.account.production_access_enabled = False
    with pytest.raises(client.exceptions.MessageRejected, match=r"not verified.*: jo@example\.com"):
        client.send_email(**single())
    success = "success@simulator.amazonses.com"
    assert statuses(client, bulk(entry(), entry(success))) == ["MESSAGE_REJECTED", "SUCCESS"]


def test_above_the_daily_quota_the_whole_call_is_refused(ses: Simulator, client: SESV2Client) -> None:
    ses.account.max_24_hour_send = 3
    client.send_bulk_email(**bulk(entry(), entry()))
    with pytest.raises(client.exceptions.TooManyRequestsException, match="Daily message quota exceeded"):
        client.send_bulk_email(**bulk(entry(), entry()))
    client.send_email(**single())
    assert ses.ledger.counts().mails == 3


def test_above_the_rate_the_whole_call_is_refused(ses: Simulator, client: SESV2Client) -> None:
    ses.account.max_send_rate = 0.01
    client.send_email(**single())
    with pytest.raises(client.exceptions.TooManyRequestsException, match=r"Maximum sending rate exceeded\."):
        client.send_email(**single())
    assert [request.status for request in ses.ledger.requests] == [200, 429]


def test_a_call_above_the_rate_is_admitted_and_its_debt_paid_off() -> None:
    usage, account = Usage(), Account(max_send_rate=10)
    usage.charge(50, account, now=100.0)
    for too_early in (100.0, 102.0, 103.9):
        with pytest.raises(SesError, match="rate"):
            usage.charge(1, account, now=too_early)
    usage.charge(1, account, now=104.1)


def test_the_quota_forgets_after_24_hours() -> None:
    usage, account = Usage(), Account(max_24_hour_send=1)
    usage.charge(1, account, now=0.0)
    with pytest.raises(SesError, match="quota"):
        usage.charge(1, account, now=24 * 3600 - 1.0)
    usage.charge(1, account, now=24 * 3600.0)


def test_a_wrong_value_is_not_taken() -> None:
    account = Account()
    with pytest.raises(ValidationError):
        account.change(b'{"sending_enabled": false, "max_send_rate": "fast"}')
    with pytest.raises(ValidationError):
        account.change(b'{"max_sending_rate": 1}')
    assert account == Account()
