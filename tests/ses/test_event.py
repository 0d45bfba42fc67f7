"""Events of SES as they come: every envelope, every kind, and whatever else a queue may hold."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from hypothesis import given
from hypothesis import strategies as st

from mailroom.event import MAX_WORDS, Event, EventKind, Ignored, Unreadable
from mailroom.ses.event import MAX_BODY, read
from tests.ses.events import FENCE, SITE, event, eventbridge, wrapped

MODEL: Any = ServiceModel(Loader().load_service_model("sesv2", "service-2"), "sesv2")
SENT_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KINDS = {
    "Send": EventKind.SEND,
    "Delivery": EventKind.DELIVERY,
    "Bounce": EventKind.BOUNCE,
    "Complaint": EventKind.COMPLAINT,
    "DeliveryDelay": EventKind.DELIVERY_DELAY,
    "Reject": EventKind.REJECT,
    "Rendering Failure": EventKind.RENDERING_FAILURE,
}


def found(body: str) -> Event:
    read_ = read(body)
    assert isinstance(read_, Event)
    return read_


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("envelope", [str, wrapped, eventbridge, lambda body: wrapped(eventbridge(body))])
def test_every_kind_is_read_in_every_envelope(kind: str, envelope: Any) -> None:
    read_ = found(envelope(json.dumps(event(kind))))
    assert (read_.kind, read_.message_id) == (KINDS[kind], "0102-m-000000")
    assert (read_.token, read_.fence, read_.site) == (812, UUID(FENCE), UUID(SITE))
    assert read_.address == "ada@example.com"
    own = kind in {"Delivery", "Bounce", "Complaint", "DeliveryDelay"}
    assert read_.at == (SENT_AT.replace(minute=5, microsecond=700_000) if own else SENT_AT)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Send", ("", "", "")),
        ("Delivery", ("", "", "")),
        ("Bounce", ("Permanent", "General", "5.1.1")),
        ("Complaint", ("abuse", "OnAccountSuppressionList", "")),
        ("DeliveryDelay", ("MailboxFull", "", "4.2.2")),
        ("Reject", ("", "", "")),
        ("Rendering Failure", ("activationv1", "", "")),
    ],
)
def test_what_a_kind_tells_more_is_kept(kind: str, said: tuple[str, str, str]) -> None:
    read_ = found(json.dumps(event(kind)))
    assert (read_.type, read_.subtype, read_.status) == said


@pytest.mark.parametrize("spelt", ["RENDERING_FAILURE", "RenderingFailure", "rendering-failure", " Rendering Failure "])
def test_a_kind_is_known_however_it_is_spelt(spelt: str) -> None:
    """The enum that asks for events has other names than they do. What is passed over is deleted, and a mail lost."""
    assert found(json.dumps(event("Rendering Failure") | {"eventType": spelt})).kind is EventKind.RENDERING_FAILURE


@pytest.mark.parametrize("kind", MODEL.shape_for("EventType").enum)
def test_every_kind_that_can_be_asked_for_is_known_by_that_name(kind: str) -> None:
    assert read(json.dumps(event("Send") | {"eventType": kind})) is not Ignored.UNKNOWN_KIND


@pytest.mark.parametrize("spelt", ["Permanent", "PERMANENT", "permanent "])
def test_a_bounce_is_for_good_in_any_letters(spelt: str) -> None:
    bounced = event("Bounce")
    bounced["bounce"]["bounceType"] = spelt
    assert found(json.dumps(bounced)).type == "Permanent"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (json.dumps(event("Open")), Ignored.TRACKING),
        (json.dumps(event("Click")), Ignored.TRACKING),
        (json.dumps(event("Subscription")), Ignored.SUBSCRIPTION),
        (json.dumps(event("Teleported")), Ignored.UNKNOWN_KIND),
        (json.dumps(event("Send") | {"eventType": ["Send"]}), Ignored.UNKNOWN_KIND),
        (json.dumps({"notificationType": "Bounce", "mail": {}, "bounce": {}}), Ignored.LEGACY),
        (wrapped("Successfully validated SNS topic for Amazon SES event publishing."), Ignored.NOTICE),
        ("Successfully validated SNS topic for Amazon SES event publishing.\n", Ignored.NOTICE),
        (json.dumps({"Type": "SubscriptionConfirmation", "Token": "x", "SubscribeURL": "y"}), Ignored.NOTICE),
        (json.dumps({"detail-type": "Sending Status Enabled", "source": "aws.ses", "detail": {}}), Ignored.NOTICE),
        (json.dumps(event("Send", mail={"messageId": None})), Ignored.NO_MESSAGE_ID),
        (json.dumps(event("Send", mail={"messageId": "a\nb"})), Ignored.NO_MESSAGE_ID),
    ],
)
def test_what_is_nothing_for_us_is_told_apart(body: str, why: Ignored) -> None:
    assert read(body) is why


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"Send"',
        "{}",
        "9" * 5_000,
        "[" * 100_000,
        '{"mail":' * 50_000,
        wrapped("no JSON"),
        wrapped("[]"),
        '{"Type": []}',
        '{"Type": {"a": 1}, "Message": "x"}',
        " " * (MAX_BODY + 1),
        '{"eventType": "Send"}',
        '{"eventType": "Send", "mail": [1]}',
        json.dumps(event("Send", mail={"timestamp": None})),
        json.dumps(event("Send", mail={"timestamp": 1_700_000_000})),
        json.dumps(event("Send", mail={"timestamp": "yesterday"})),
        json.dumps(event("Send", mail={"timestamp": "9999-12-31T23:59:59-14:00"})),
        json.dumps(event("Send", mail={"timestamp": "0001-01-01T00:00:00+14:00"})),
    ],
    ids=lambda body: body[:20],
)
def test_what_nobody_understands_is_unreadable(body: str) -> None:
    assert read(body) == Unreadable()


@pytest.mark.parametrize("written", ["2026-01-02T03:04:05", "2026-01-02T05:04:05+02:00", "2026-01-02T03:04:05 +0000"])
def test_a_moment_is_utc_whatever_its_zone(written: str) -> None:
    assert found(json.dumps(event("Send", mail={"timestamp": written}))).at == SENT_AT


@pytest.mark.parametrize("token", ["0", "-1", "1e3", "\uff19", "9223372036854775808", "1" * 4_000, "812\n", " 812", ""])
def test_a_token_that_cannot_be_one_is_none(token: str) -> None:
    assert found(json.dumps(event("Send", tags={"mailroom_token": [token]}))).token is None


@pytest.mark.parametrize("tags", [None, [], "x", {"mailroom_token": 812, "mailroom_batch": {}, "mailroom_site": ["x"]}])
def test_tags_that_are_missing_or_of_another_kind_are_none(tags: Any) -> None:
    read_ = found(json.dumps(event("Rendering Failure", mail={"tags": tags})))
    assert (read_.token, read_.fence, read_.site) == (None, None, None)


def test_a_tag_with_two_values_is_not_ours() -> None:
    assert found(json.dumps(event("Send", tags={"mailroom_token": ["812", "813"]}))).token is None


@pytest.mark.parametrize(
    "to", [None, [], "ada@example.com", ["a@x.org", "b@x.org"], ["a@x.org\r\n"], ["\ud800@x"], [7]]
)
def test_nobody_is_blamed_but_the_one_address_of_a_mail(to: Any) -> None:
    assert found(json.dumps(event("Bounce", mail={"destination": to}))).address is None


def test_the_address_is_the_one_that_was_mailed_and_not_what_a_report_names() -> None:
    """Trap 8: behind a forwarder the report names another."""
    bounced = event("Bounce")
    bounced["bounce"]["bouncedRecipients"][0]["emailAddress"] = "elsewhere@example.net"
    assert found(json.dumps(bounced)).address == "ada@example.com"


def test_words_are_cut_and_hold_no_address_and_nothing_that_a_log_obeys() -> None:
    bounced = event("Bounce")
    bounced["bounce"] |= {"bounceType": "ada@example.com\n\x1b[2J\0\ud800é", "bounceSubType": "x" * 1_000}
    bounced["bounce"]["bouncedRecipients"][0]["status"] = "5.1.1 ada@example.com"
    read_ = found(json.dumps(bounced))
    assert read_.type == "ada?example.com??[2J???"
    assert read_.subtype == "x" * MAX_WORDS
    assert read_.status == ""


def test_no_address_is_in_what_is_shown_of_an_event() -> None:
    """Trap 19, with a canary in every place where SES puts one."""
    bounced = event("Bounce") | {"click": {"link": "https://x/?t=canary"}}
    bounced["mail"]["headers"] = [{"name": "Subject", "value": "canary"}, {"name": "To", "value": "canary@x.org"}]
    bounced["mail"]["destination"] = ["canary@x.org"]
    bounced["bounce"]["bouncedRecipients"][0] |= {"emailAddress": "canary@x.org", "diagnosticCode": "canary"}
    assert "canary" not in repr(found(json.dumps(bounced)))


@pytest.mark.parametrize("written", ["not-spam", "Not-Spam", " NOT-SPAM"])
def test_a_report_may_write_its_type_in_any_letters(written: str) -> None:
    """RFC 5965: whoever takes a complaint back must not be taken to complain."""
    told = event("Complaint")
    told["complaint"]["complaintFeedbackType"] = written
    assert found(json.dumps(told)).type == "not-spam"


def test_a_number_that_python_does_not_read_costs_no_event() -> None:
    told = json.dumps(event("Delivery")).replace(" 700,", f" {'9' * 5_000},")
    assert found(told).kind is EventKind.DELIVERY


def test_a_field_that_is_added_is_no_envelope() -> None:
    told = event("Bounce") | {"detail": {"reason": "x"}, "Type": "Notification", "Message": "x"}
    assert found(json.dumps(told)).kind is EventKind.BOUNCE


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    body = json.dumps(event("Send")).replace('"messageId"', '"messageId": "first", "messageId"')
    assert found(body).message_id == "0102-m-000000"


def test_a_message_as_large_as_they_come_is_read() -> None:
    large = event("Send") | {"more": "x" * (MAX_BODY - 2_000)}
    assert found(json.dumps(large)).kind is EventKind.SEND


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=30)
    | st.sampled_from(["\ud800", "\0", "9999-12-31T23:59:59.999999-23:59", "2026-01-02T03:04:05Z", FENCE, "812"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """An event in which anything may stand anywhere."""
    whole: dict[str, Any] = event(draw(st.sampled_from([*KINDS, "Open", "Subscription"])))
    for _ in range(draw(st.integers(1, 4))):
        place: Any = whole
        while True:
            name = draw(st.sampled_from(sorted(place)))
            if isinstance(place[name], dict) and place[name] and draw(st.booleans()):
                place = place[name]
                continue
            place[name] = draw(ANYTHING)
            break
    body = json.dumps(whole)
    envelopes: list[Callable[[str], str]] = [str, wrapped, eventbridge]
    return draw(st.sampled_from(envelopes))(body)


@pytest.mark.slow
@given(damaged() | ANYTHING.map(json.dumps) | st.text())
def test_reading_never_raises_and_gives_what_can_be_stored(body: str) -> None:
    read_ = read(body)
    assert isinstance(read_, Event | Ignored | Unreadable)
    if isinstance(read_, Event):
        assert read_.at.utcoffset() is not None
        assert read_.token is None or 0 < read_.token < 2**63
        for words in (read_.message_id, read_.type, read_.subtype, read_.status):
            assert words.isascii()
            assert words.isprintable()
            assert "@" not in words or words == read_.message_id
        if read_.address is not None:
            assert "\0" not in read_.address
            read_.address.encode()
