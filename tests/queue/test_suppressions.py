"""Who is not mailed any more, and who is again: what follows from events, in whatever order they come."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from mailroom.event import Event, EventKind
from mailroom.ops import counting, suppressions
from mailroom.queue import by_hand, events
from tests.claiming import claim, log, take, tokens_of, waited
from tests.telling import HARD, SOFT, Mail, ask, event, mail, moment, reasons, sign_up, tell
from tests.world import misplaced, rows, transaction, until_somebody_waits

ADA = "ada@example.com"
DELIVERY, BOUNCE, COMPLAINT = EventKind.DELIVERY, EventKind.BOUNCE, EventKind.COMPLAINT


def sent(connection: Connection, account: int, number: int = 1, *, address: str | None = None) -> list[Mail]:
    """So many mails to an account, one after the other."""
    return [mail(connection, ask(connection, account, address), f"m{nth}") for nth in range(number)]


def ends(connection: Connection, account: int) -> str | None:
    """How the next mail to an account ends in the claim; None: it is sent."""
    token = ask(connection, account)
    found = claim(connection)
    if found.batches:
        return None
    [job] = found.finished
    assert (job.token, job.outcome) == (token, "suppressed")
    return job.error_code


# What suppresses, and what does not


@pytest.mark.parametrize("subtype", ["General", "NoEmail", "Suppressed", "OnAccountSuppressionList", "NotKnownYet"])
def test_a_permanent_bounce_suppresses_the_address_and_nobody_else(conn: Connection, subtype: str) -> None:
    account = sign_up(conn, ADA)
    other = conn.execute(text("SELECT add_account('jo@example.com', 'jo', mails => false)")).scalar_one()
    [out] = sent(conn, account)
    tell(conn, out, BOUNCE, moment(1), **HARD | {"subtype": subtype})
    assert ends(conn, account) == "SuppressedBounce"
    assert ends(conn, other) is None
    assert log(conn) == [(out.token, "sent", 0, False), (out.token + 1, "suppressed", 0, False)]
    assert misplaced(conn) == []


def test_urgent_mail_goes_to_who_complained_and_not_to_who_bounced(conn: Connection) -> None:
    account = sign_up(conn, ADA, status="provisioned")
    [out] = sent(conn, account)
    tell(conn, out, COMPLAINT, moment(2), type="abuse")
    assert ends(conn, account) == "SuppressedComplaint"

    conn.execute(text("UPDATE accounts SET status = 'active'"))
    recovery = recover(conn, account)
    assert tokens_of(take(conn)) == [recovery]

    tell(conn, out, BOUNCE, moment(1), **HARD)
    recover(conn, account)
    assert [job.error_code for job in claim(conn).finished] == ["SuppressedBounce"]


def recover(connection: Connection, account: int) -> int:
    token: int = connection.execute(
        text("SELECT request_mail('password_recovery', :account)"), {"account": account}
    ).scalar_one()
    connection.execute(text("UPDATE jobs SET due_at = now() - interval '1 minute'"))
    return token


@pytest.mark.parametrize("blame", ["not-spam", "auth-failure"])
def test_who_says_that_it_is_no_spam_is_mailed(conn: Connection, blame: str) -> None:
    account = sign_up(conn, ADA)
    tell(conn, sent(conn, account)[0], COMPLAINT, moment(1), type=blame)
    assert ends(conn, account) is None


@pytest.mark.parametrize("blame", ["abuse", "fraud", "virus", "other", ""])
def test_any_other_complaint_suppresses(conn: Connection, blame: str) -> None:
    account = sign_up(conn, ADA)
    tell(conn, sent(conn, account)[0], COMPLAINT, moment(1), type=blame)
    assert ends(conn, account) == "SuppressedComplaint"


def test_the_list_of_the_account_suppresses_here_as_bounce_and_as_complaint(conn: Connection) -> None:
    """Trap 12, the half that is here: the other one is that they count for no rate."""
    account = sign_up(conn, ADA)
    [out] = sent(conn, account)
    tell(conn, out, COMPLAINT, moment(2), subtype="OnAccountSuppressionList")
    assert reasons(conn) == {ADA: "complaint"}
    tell(conn, out, BOUNCE, moment(1), type="Permanent", subtype="OnAccountSuppressionList")
    assert reasons(conn) == {ADA: "bounce"}


def test_six_soft_bounces_in_a_row_suppress_and_five_do_not(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    out = sent(conn, account, 6)
    for nth, each in enumerate(out[:5]):
        tell(conn, each, BOUNCE, moment(30 - nth), **SOFT)
        tell(conn, each, BOUNCE, moment(29.5 - nth), **SOFT)  # of one message only one counts
    assert ends(conn, account) is None
    tell(conn, out[5], BOUNCE, moment(1), type="Undetermined", subtype="Undetermined")
    assert ends(conn, account) == "SuppressedSoftBounces"


@pytest.mark.parametrize("subtype", ["MessageTooLarge", "ContentRejected", "AttachmentRejected"])
def test_what_is_wrong_with_our_words_says_nothing_of_an_address(conn: Connection, subtype: str) -> None:
    account = sign_up(conn, ADA)
    for each in sent(conn, account, 6):
        tell(conn, each, BOUNCE, moment(1), type="Transient", subtype=subtype)
    assert ends(conn, account) is None


@pytest.mark.parametrize("delivery_first", [True, False])
def test_an_answer_from_holiday_is_no_soft_bounce(conn: Connection, delivery_first: bool) -> None:
    """Trap 7: it comes after the delivery, and may be told before it."""
    account = sign_up(conn, ADA)
    out = sent(conn, account, 6)
    deliveries = [event(each, DELIVERY, moment(9)) for each in out]
    answers = [event(each, BOUNCE, moment(8), **SOFT | {"subtype": "General"}) for each in out]
    for told in (deliveries, answers) if delivery_first else (answers, deliveries):
        events.absorb(conn, told)
    assert reasons(conn) == {ADA: None}
    assert ends(conn, account) is None


@pytest.mark.parametrize(("at", "reason"), [(2, "bounce"), (0.5, None)])
def test_a_delivery_lifts_a_bounce_that_it_follows_and_no_later_one(
    conn: Connection, at: float, reason: str | None
) -> None:
    account = sign_up(conn, ADA)
    first, second = sent(conn, account, 2)
    tell(conn, first, BOUNCE, moment(1), **HARD)
    tell(conn, second, DELIVERY, moment(at))
    assert reasons(conn) == {ADA: reason}


def test_a_delivery_does_not_take_back_a_complaint(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    first, second = sent(conn, account, 2)
    tell(conn, first, COMPLAINT, moment(2), type="abuse")
    tell(conn, second, DELIVERY, moment(1))
    assert reasons(conn) == {ADA: "complaint"}


def consume(connection: Connection, token: int) -> None:
    secret = connection.execute(text("SELECT secret FROM tokens WHERE id = :token"), {"token": token}).scalar_one()
    found = rows(connection, "SELECT * FROM consume_token(:secret, 'activation')", secret=secret)
    assert len(found) == 1


@pytest.mark.parametrize("bounce_first", [True, False])
@pytest.mark.parametrize("told", [HARD, SOFT], ids=["permanent", "soft"])
def test_a_token_that_comes_back_proves_the_mailbox_whenever_the_bounce_is_heard_of(
    conn: Connection, told: dict[str, str], bounce_first: bool
) -> None:
    """Trap 7."""
    account = sign_up(conn, ADA)
    out = sent(conn, account, 6)
    bounces = [event(each, BOUNCE, moment(5), **told) for each in out]
    if bounce_first:
        events.absorb(conn, bounces)
        assert reasons(conn) != {ADA: None}
    consume(conn, out[-1].token)
    events.absorb(conn, bounces)
    assert reasons(conn) == {ADA: None}
    tell(conn, out[0], BOUNCE, moment(-1), **HARD)
    assert reasons(conn) == {ADA: "bounce"}


def test_a_token_that_comes_back_takes_back_no_complaint(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    out = sent(conn, account, 2)
    tell(conn, out[0], COMPLAINT, moment(1), type="abuse")
    consume(conn, out[1].token)
    assert reasons(conn) == {ADA: "complaint"}


# Whose address it is


def test_the_address_that_was_mailed_is_suppressed_and_not_that_of_a_report(conn: Connection) -> None:
    """Trap 8: what a report names may be where somebody forwards mail to."""
    account = sign_up(conn, ADA)
    other = conn.execute(text("SELECT add_account('jo@example.com', 'jo', mails => false)")).scalar_one()
    tell(conn, sent(conn, account)[0], BOUNCE, moment(1), address="jo@example.com", **HARD)
    assert ends(conn, account) == "SuppressedBounce"
    assert ends(conn, other) is None


def test_who_changed_the_address_since_is_mailed_at_the_new_one(conn: Connection) -> None:
    """Trap 9."""
    account = sign_up(conn, ADA)
    [out] = sent(conn, account)
    conn.execute(text("SELECT change_account(:account, email => 'new@example.com')"), {"account": account})
    tell(conn, out, BOUNCE, moment(1), **HARD)
    assert ends(conn, account) is None
    conn.execute(text("SELECT change_account(:account, email => 'ADA@example.com')"), {"account": account})
    assert ends(conn, account) == "SuppressedBounce"


UNICODE, PUNYCODE = "ada@bücher.example", "ada@xn--bcher-kva.example"


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_domain_in_punycode_is_the_same_in_unicode(conn: Connection, is_gone: bool) -> None:
    """Trap 10; where the token is gone, with its account, the address of the event is all that there is."""
    account = sign_up(conn, UNICODE)
    [out] = sent(conn, account)
    if is_gone:
        conn.execute(text("SELECT remove_account(:account)"), {"account": account})
        account = sign_up(conn, UNICODE)
    assert tell(conn, out, BOUNCE, moment(1), address=PUNYCODE, **HARD).added == 1
    assert ends(conn, account) == "SuppressedBounce"
    assert suppressions.find_address(conn, PUNYCODE) == suppressions.find_address(conn, UNICODE.upper())


def test_a_token_with_an_address_of_its_own_suppresses_that(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    [out] = sent(conn, account, address="other@example.com")
    assert out.address == "other@example.com"
    tell(conn, out, BOUNCE, moment(1), address=None, **HARD)
    assert ends(conn, account) is None
    ask(conn, account, "Other@example.com")
    assert [job.error_code for job in claim(conn).finished] == ["SuppressedBounce"]


def test_no_address_is_kept(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    tell(conn, sent(conn, account)[0], BOUNCE, moment(1), **HARD)
    suppressions.add(conn, "jo@example.com")
    kept = rows(
        conn, "SELECT CAST(events AS text) FROM events UNION ALL SELECT CAST(suppressions AS text) FROM suppressions"
    )
    assert len(kept) == 3
    assert all("@" not in row[0] and "example" not in row[0] for row in kept)


# Any order, any number of times

TOLD = [
    (DELIVERY, {}),
    (BOUNCE, HARD),
    (BOUNCE, SOFT),
    (BOUNCE, SOFT),
    (BOUNCE, {"type": "Transient", "subtype": "ContentRejected"}),
    (COMPLAINT, {"type": "abuse"}),
    (COMPLAINT, {"type": "not-spam"}),
    (COMPLAINT, {"subtype": "OnAccountSuppressionList"}),
]
MAILS = 9


@pytest.fixture
def nine(conn: Connection) -> list[Mail]:
    return sent(conn, sign_up(conn, ADA), MAILS)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_same_follows_from_the_same_events_in_any_order_and_told_again(
    conn: Connection, nine: list[Mail], data: st.DataObject
) -> None:
    start = moment(60)
    chosen = st.tuples(st.integers(0, MAILS - 1), st.sampled_from(TOLD), st.integers(0, 12))
    told = [
        event(nine[nth], kind, moment(minute, start), **what)
        for nth, (kind, what), minute in data.draw(
            st.lists(chosen, min_size=1, max_size=24, unique_by=lambda each: (each[0], each[1][0], each[2]))
        )
    ]
    once = _outcome(conn, [told])
    again = data.draw(st.lists(st.sampled_from(told), max_size=10))
    shuffled = data.draw(st.permutations([*told, *again]))
    size = data.draw(st.integers(1, len(shuffled)))
    assert _outcome(conn, [shuffled[at : at + size] for at in range(0, len(shuffled), size)]) == once


def _outcome(connection: Connection, calls: Sequence[Sequence[Event]]) -> list[Any]:
    connection.execute(text("DELETE FROM events"))
    connection.execute(text("DELETE FROM suppressions"))
    for call in calls:
        events.absorb(connection, call)
    return [tuple(row) for row in rows(connection, "SELECT * FROM suppressions ORDER BY address_hash")]


def test_two_who_absorb_at_once_count_together(engine: Engine) -> None:
    with engine.connect() as connection:
        out = sent(connection, sign_up(connection, ADA), 6)
    told = [event(each, BOUNCE, moment(10 - nth), **SOFT) for nth, each in enumerate(out)]
    _absorb_at_once(engine, told[:3], told[3:])
    with engine.connect() as connection:
        assert reasons(connection) == {ADA: "soft_bounces"}


def test_a_delivery_that_is_absorbed_beside_the_bounce_lifts_it(engine: Engine) -> None:
    with engine.connect() as connection:
        first, second = sent(connection, sign_up(connection, ADA), 2)
    _absorb_at_once(engine, [event(first, BOUNCE, moment(2), **HARD)], [event(second, DELIVERY, moment(1))])
    with engine.connect() as connection:
        assert reasons(connection) == {ADA: None}


def _absorb_at_once(engine: Engine, first: Sequence[Event], second: Sequence[Event]) -> None:
    """The second comes while the first has not committed."""

    def absorb_second() -> None:
        with engine.connect() as connection:
            events.absorb(connection, second)

    with transaction(engine) as connection, ThreadPoolExecutor() as threads:
        events.absorb(connection, first)
        other = threads.submit(absorb_second)
        until_somebody_waits(engine)
        connection.commit()
        other.result()


# By hand


def test_what_is_released_is_mailed_and_old_evidence_that_comes_late_changes_nothing(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    out = sent(conn, account, 8)
    tell(conn, out[0], BOUNCE, moment(5), **HARD)
    tell(conn, out[0], COMPLAINT, moment(4), type="abuse")
    assert ends(conn, account) == "SuppressedBounce"
    _, was = suppressions.release(conn, ADA.upper())
    assert was == "bounce"
    assert ends(conn, account) is None

    for nth, each in enumerate(out):
        tell(conn, each, BOUNCE, moment(3 - nth / 10), **SOFT)
    tell(conn, out[1], BOUNCE, moment(1), **HARD)
    tell(conn, out[1], COMPLAINT, moment(1), type="abuse")
    assert reasons(conn) == {ADA: None}
    tell(conn, out[2], BOUNCE, moment(-1), **HARD)
    assert reasons(conn) == {ADA: "bounce"}


def test_what_is_released_before_anything_is_heard_stays_released(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    [out] = sent(conn, account)
    assert suppressions.release(conn, ADA)[1] is None
    tell(conn, out, BOUNCE, moment(1), **HARD)
    assert ends(conn, account) is None


def test_what_is_added_by_hand_gets_nothing_until_it_is_released(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    out = sent(conn, account, 2)
    known, added = suppressions.add(conn, "ADA@example.com.")
    assert (added, suppressions.add(conn, ADA)) == (True, (known, False))
    tell(conn, out[0], DELIVERY, moment(-1))
    consume(conn, out[1].token)
    conn.execute(text("UPDATE accounts SET status = 'active'"))
    recover(conn, account)
    assert [job.error_code for job in claim(conn).finished] == ["SuppressedByHand"]
    assert suppressions.release(conn, ADA) == (known, "added")
    recovery = recover(conn, account)
    assert recovery in tokens_of(take(conn))


def test_a_suppressed_mail_is_tried_again_after_its_address_was_released(conn: Connection) -> None:
    account = sign_up(conn, ADA)
    [out] = sent(conn, account)
    tell(conn, out, BOUNCE, moment(1), **HARD)
    token = ask(conn, account)
    assert [job.outcome for job in claim(conn).finished] == ["suppressed"]
    assert by_hand.retry(conn, [token], queue="mailroom").put_back == [token]
    waited(conn)
    assert [job.error_code for job in claim(conn).finished] == ["SuppressedBounce"]

    suppressions.release(conn, ADA)
    assert by_hand.retry(conn, [token], queue="mailroom").put_back == [token]
    waited(conn)
    assert tokens_of(take(conn)) == [token]


def test_a_list_is_told_page_by_page(conn: Connection) -> None:
    for number in range(25):
        suppressions.add(conn, f"user{number}@example.com")
    suppressions.release(conn, "user3@example.com")
    account = sign_up(conn, ADA)
    tell(conn, sent(conn, account)[0], BOUNCE, moment(1), **HARD)

    found = list(suppressions.find(conn, limit=100, page=4))
    assert [each.hash for each in found] == sorted({each.hash for each in found})
    assert len(found) == 25
    assert counting.count(conn).feedback.suppressed == {"added": 24, "bounce": 1}
    [bounced] = suppressions.find(conn, reasons=["bounce"], limit=100, page=4)
    assert (bounced.type, bounced.subtype, bounced.since) == ("Permanent", "General", bounced.bounced_at)
    assert [each.hash for each in suppressions.find(conn, after=found[9].hash, limit=3, page=2)] == [
        each.hash for each in found[10:13]
    ]


def test_what_is_told_is_what_is_the_reason(conn: Connection) -> None:
    out = sent(conn, sign_up(conn, ADA), 3)
    tell(conn, out[0], BOUNCE, moment(3), **HARD)
    tell(conn, out[1], BOUNCE, moment(2), **SOFT)
    tell(conn, out[2], COMPLAINT, moment(1), type="abuse")
    found = suppressions.find_address(conn, ADA)
    assert (found.reason, found.type, found.subtype) == ("bounce", "Permanent", "General")
    assert found.since == found.bounced_at
    tell(conn, out[1], DELIVERY, moment(0.5))
    found = suppressions.find_address(conn, ADA)
    assert (found.reason, found.type, found.subtype) == ("complaint", "abuse", "")


def test_what_was_counted_stays_counted_when_its_events_are_forgotten(conn: Connection) -> None:
    out = sent(conn, sign_up(conn, ADA), 7)
    for nth, each in enumerate(out[:6]):
        tell(conn, each, BOUNCE, moment(20 - nth), **SOFT)
    conn.execute(text("DELETE FROM events"))
    tell(conn, out[6], BOUNCE, moment(1), **SOFT)
    assert reasons(conn) == {ADA: "soft_bounces"}
