"""Templates at SES: what its rendering is read as, however it is written."""

import json

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom.errors import TransportError
from mailroom.ses.templates import Templates
from mailroom.simulator import Fault, Simulator

SUBJECT = "=?UTF-8?Q?Gr=C3=BC=C3=9Fe?="


@pytest.fixture
def at_ses(simulator: Simulator, client: SESV2Client) -> Templates:
    simulator.templates.create("x", {"Subject": "a", "Text": "b", "Html": "c"})
    return Templates(client)


def answers(simulator: Simulator, operation: str, body: object) -> None:
    simulator.faults.add(Fault(operation=operation, body=json.dumps(body)))


@pytest.mark.parametrize("subject", [SUBJECT, "Grüße"])
@pytest.mark.parametrize(
    ("declared", "written"),
    [
        ("charset=UTF-8\nContent-Transfer-Encoding: 8bit", "Grüße, 世界"),
        ("charset=UTF-8\nContent-Transfer-Encoding: 7bit", "Grüße, 世界"),
        ("charset=UTF-8", "Grüße, 世界"),
        ("charset=us-ascii", "Grüße, 世界"),
        ("charset=x-unknown\nContent-Transfer-Encoding: 8bit", "Grüße, 世界"),
        ("charset=undefined\nContent-Transfer-Encoding: 8bit", "Grüße, 世界"),
        ("charset=idna\nContent-Transfer-Encoding: 8bit", "Grüße, 世界"),
        ("charset=UTF-8\nContent-Transfer-Encoding: quoted-printable", "Gr=C3=BC=C3=9Fe, =E4=B8=96=E7=95=8C"),
        ("charset=UTF-8\nContent-Transfer-Encoding: base64", "R3LDvMOfZSwg5LiW55WM"),
    ],
)
def test_a_text_is_read_however_it_is_declared(
    simulator: Simulator, at_ses: Templates, subject: str, declared: str, written: str
) -> None:
    parts = "".join(f"--b\nContent-Type: text/{kind}; {declared}\n\n{written}\n" for kind in ("plain", "html"))
    head = f"Subject: {subject}\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n"
    answers(simulator, "TestRenderEmailTemplate", {"RenderedTemplate": f"{head}{parts}--b--\n"})
    rendered = at_ses.render("x", "{}")
    assert {part: text.strip() for part, text in rendered.items()} == {
        "subject": "Grüße",
        "text": "Grüße, 世界",
        "html": "Grüße, 世界",
    }


def test_an_answer_without_what_was_asked_for_is_an_error_of_ses(simulator: Simulator, at_ses: Templates) -> None:
    answers(simulator, "TestRenderEmailTemplate", {})
    with pytest.raises(TransportError, match=r"TestRenderEmailTemplate .* has no RenderedTemplate"):
        at_ses.render("x", "{}")
    answers(simulator, "GetEmailTemplate", {})
    with pytest.raises(TransportError, match=r"GetEmailTemplate .* has no TemplateContent"):
        at_ses.find("x")


PARTS = {"subject": "a", "text": "b", "html": "c"}


@pytest.mark.slow
def test_what_somebody_else_has_just_made_is_waited_for(simulator: Simulator, at_ses: Templates) -> None:
    """Of two who push at once, one is told that it is there; and SES may not know it everywhere yet."""
    simulator.faults.add(Fault(operation="GetEmailTemplate", error="NotFoundException", times=2))
    assert at_ses.push("x", PARTS) is False


@pytest.mark.slow
def test_what_is_said_to_be_there_and_never_is_was_changed_by_nobody(simulator: Simulator, at_ses: Templates) -> None:
    simulator.faults.add(Fault(operation="GetEmailTemplate", error="NotFoundException", times=None))
    with pytest.raises(TransportError, match="SES says that x is there, and does not find it: try again"):
        at_ses.push("x", PARTS)
