"""The seam to a provider: what a mail shows of itself, and the transport that only prints."""

import io
from datetime import timedelta

from mailroom.mail.debug import DebugTransport
from mailroom.mail.transport import Mail
from mailroom.outcome import Sent
from tests.kinds import RECOVERY

JO = Mail(token=1, address="jo@example.com", login="jo", secret="s3cret", code="01234")
LI = Mail(token=2, address="li@example.com", login="li", secret="t0ken", code="56789")


def test_a_mail_keeps_its_data_out_of_its_repr() -> None:
    assert repr(JO) == "Mail(token=1, alone=False)"


def test_debugging_prints_each_mail_and_calls_it_sent() -> None:
    out = io.StringIO()
    outcomes = DebugTransport(out).send(RECOVERY, [JO, LI], batch="7")
    assert outcomes == [Sent("debug-7-1"), Sent("debug-7-2")]
    assert out.getvalue().splitlines() == [
        "batch=7 token=1 template=passwordrecoveryv1 to=jo@example.com "
        '{"login": "jo", "login_text": "jo", "secret": "s3cret", "code": "01234"}',
        "batch=7 token=2 template=passwordrecoveryv1 to=li@example.com "
        '{"login": "li", "login_text": "li", "secret": "t0ken", "code": "56789"}',
    ]


def test_debugging_takes_any_lease() -> None:
    assert DebugTransport(io.StringIO()).max_call_time == timedelta(0)
