"""The calls for one batch: what is known before any call, what a search finds, and where it ends."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from mailroom.errors import TransportError
from mailroom.mail.transport import Mail
from mailroom.outcome import Answer, Deferred, Outcome, RefusedTogether, Rejected, Scope, Sent, Untried
from mailroom.worker.bisection import Bisection
from mailroom.worker.call_sharing import LONG_APART, CallSharing
from tests.kinds import ACTIVATION
from tests.running import Scripted, accept


class Picky(Scripted):
    """A transport that takes no mail to `nowhere`, and refuses a call whole for the sake of one to `bad`."""

    keeps_apart = True

    def __init__(self) -> None:
        super().__init__()
        self.answers = [judge]

    def unmailable(self, mail: Mail) -> Rejected | None:
        return Rejected("UnsupportedAddress", "no") if mail.address == "nowhere" else None


def judge(mails: Sequence[Mail]) -> Sequence[Answer]:
    if not any(mail.address == "bad" for mail in mails):
        return accept(mails)
    if len(mails) > 1:
        return [RefusedTogether("BadRequestException")] * len(mails)
    return [Rejected("BadRequestException", "no")]


def mails(*addresses: str, alone: bool = False) -> list[Mail]:
    return [Mail(token, address, "login", "secret", "", alone) for token, address in enumerate(addresses)]


class Room:
    """What is asked for before each call but the first, and whether it is given."""

    def __init__(self, *, gives: bool = True) -> None:
        self.gives = gives
        self.asked: list[tuple[int, bool]] = []

    def __call__(self, count: int, until: float, *, again: bool) -> bool:
        self.asked.append((count, again))
        return self.gives


DENIED = Deferred("AccessDenied", "no", charged=False, scope=Scope.ACCOUNT, on_way=True)


def send(
    transport: Scripted,
    batch: Sequence[Mail],
    *,
    room: Room | None = None,
    sharing: CallSharing | None = None,
    others_are_accepted: Callable[[Scope], bool] = lambda _: False,
) -> Sequence[Outcome]:
    return Bisection(
        transport,
        ACTIVATION,
        batch="7",
        deadline=time.monotonic() + 60,
        sharing=sharing or CallSharing(),
        before_call=room or Room(),
        others_are_accepted=others_are_accepted,
    ).send(batch)


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def apart() -> CallSharing:
    """What a process knows that has met two bad mails in one call: its mails go one by one."""
    sharing = CallSharing()
    sharing.note(ACTIVATION, [Rejected("BadRequestException", "no")] * 2, searched=True)
    return sharing


@pytest.mark.parametrize("gives", [True, False])
def test_what_can_never_be_mailed_needs_no_call_and_no_room(gives: bool) -> None:
    sends, room = Picky(), Room(gives=gives)
    outcomes = send(sends, mails("nowhere", "nowhere", "good", "nowhere"), room=room, sharing=apart())
    assert kinds(outcomes) == ["Rejected", "Rejected", "Sent", "Rejected"]
    assert ([size for _, size in sends.calls], room.asked) == ([1], [])


def test_what_can_never_be_mailed_is_rejected_though_the_account_is_at_fault() -> None:
    sends = Picky()
    sends.answers = [
        lambda mails: [Deferred("AccountSuspended", "no", charged=False, scope=Scope.ACCOUNT)] * len(mails)
    ]
    assert kinds(send(sends, mails("good", "nowhere", "good"), sharing=apart())) == ["Deferred", "Rejected", "Untried"]


def test_what_can_never_be_mailed_says_nothing_of_calls() -> None:
    sends, sharing = Picky(), CallSharing()
    send(sends, mails("nowhere", "nowhere", "bad", "good", "good"), sharing=sharing)
    assert sharing.is_worth_it(ACTIVATION)


def test_a_bad_mail_is_found_by_halves_with_room_for_each_call() -> None:
    sends, room = Picky(), Room()
    outcomes = send(sends, mails(*["good"] * 9, "bad"), room=room)
    assert kinds(outcomes) == ["Sent"] * 9 + ["Rejected"]
    assert [size for _, size in sends.calls] == [10, 5, 2, 1, 1, 1]
    assert room.asked == [(5, True), (2, True), (1, True), (1, True), (1, True)]


def test_where_calls_for_several_are_refused_as_such_each_mail_goes_alone() -> None:
    sends, sharing = Picky(), CallSharing()
    sends.answers = [lambda mails: accept(mails) if len(mails) == 1 else [DENIED] * len(mails)]
    outcomes = send(sends, mails(*["good"] * 9), sharing=sharing, others_are_accepted=lambda _: True)
    assert kinds(outcomes) == ["Sent"] * 9
    assert [size for _, size in sends.calls] == [9, 4, 2, *[1] * 9]
    assert not sharing.is_worth_it(ACTIVATION)


def test_what_is_denied_is_looked_for_only_where_others_are_accepted() -> None:
    """Or each batch would cost some calls, of what may send nothing at all."""
    sends = Picky()
    sends.answers = [lambda mails: [DENIED] * len(mails)]
    assert send(sends, mails(*["good"] * 9)) == [replace(DENIED, on_way=False)] * 9
    assert len(sends.calls) == 1
    outcomes = send(sends, mails(*["good"] * 9), others_are_accepted=lambda _: True)
    assert outcomes == [DENIED] * 2 + [Untried("CallsInVain")] * 7


def test_mails_that_fail_together_go_alone_the_next_time() -> None:
    """Or one of them, with a code that nobody knows, would take the others along to the last attempt."""
    sends, sharing = Picky(), CallSharing()
    sends.answers = [lambda mails: [Deferred("OfTomorrow", "no", charged=True)] * len(mails), accept]
    send(sends, mails("good", "good"), sharing=sharing)
    send(sends, mails("good", "good"), sharing=sharing)
    assert [size for _, size in sends.calls] == [2, 1, 1]


def test_one_refusal_brings_back_no_calls_that_are_refused_as_such() -> None:
    sharing = CallSharing()
    sharing.keep_apart(ACTIVATION, LONG_APART)
    sharing.note(ACTIVATION, [Rejected("MessageRejected", "no")], searched=False)
    sharing.note(ACTIVATION, [Sent("m")] * (LONG_APART - 1), searched=False)
    assert not sharing.is_worth_it(ACTIVATION)
    sharing.note(ACTIVATION, [Sent("m")], searched=False)
    assert sharing.is_worth_it(ACTIVATION)


@pytest.mark.parametrize("outcomes", [["later"], ["later", "sent"]])
def test_one_that_fails_keeps_no_others_apart(outcomes: list[str]) -> None:
    later = Deferred("OfTomorrow", "no", charged=True)
    sends, sharing = Picky(), CallSharing()
    sends.answers = [lambda mails: [later if outcome == "later" else Sent("m") for outcome in outcomes]]
    send(sends, mails(*outcomes), sharing=sharing)
    assert sharing.is_worth_it(ACTIVATION)


def test_two_that_do_not_go_together_keep_no_others_apart() -> None:
    def minds_a_pair(mails: Sequence[Mail]) -> Sequence[Answer]:
        together = {"ada", "eve"} <= {mail.address for mail in mails}
        return [DENIED] * len(mails) if together else accept(mails)

    sends, sharing = Picky(), CallSharing()
    sends.answers = [minds_a_pair]
    outcomes = send(sends, mails("good", "good", "ada", "eve"), sharing=sharing, others_are_accepted=lambda _: True)
    assert kinds(outcomes) == ["Sent"] * 4
    assert [size for _, size in sends.calls] == [4, 2, 1, 1]
    assert sharing.is_worth_it(ACTIVATION)


def test_who_goes_apart_for_long_does_so_whatever_fails_meanwhile() -> None:
    sharing = CallSharing()
    sharing.keep_apart(ACTIVATION, 20)
    sharing.keep_apart(ACTIVATION, 10)
    sharing.note(ACTIVATION, [Sent("m")] * 19, searched=False)
    assert not sharing.is_worth_it(ACTIVATION)
    sharing.note(ACTIVATION, [Sent("m")], searched=False)
    assert sharing.is_worth_it(ACTIVATION)


def test_those_that_go_alone_come_last_and_share_no_call() -> None:
    sends = Picky()
    first, second, third = mails("good", "good", "good")
    outcomes = send(sends, [replace(first, alone=True), second, third])
    assert kinds(outcomes) == ["Sent"] * 3
    assert (sends.mailed, [size for _, size in sends.calls]) == ([1, 2, 0], [2, 1])


def test_where_a_line_takes_all_nothing_goes_alone() -> None:
    sends = Picky()
    sends.keeps_apart = False
    send(sends, mails("good", "good", alone=True), sharing=apart())
    assert [size for _, size in sends.calls] == [2]


def test_a_transport_that_ends_after_a_call_was_answered_loses_none_of_what_it_told() -> None:
    """Or the mails of that call would go out again, with no word of it."""

    def ends(mails: Sequence[Mail]) -> Sequence[Answer]:
        raise TransportError("the output is closed")

    sends = Picky()
    sends.answers = [accept, ends]
    outcomes = send(sends, mails("good", "good", "good"), sharing=apart())
    assert outcomes == [Sent("m"), Untried("TransportEnded"), Untried("CallsInVain")]


def test_a_transport_that_ends_before_any_mail_was_decided_says_so() -> None:
    def ends(mails: Sequence[Mail]) -> Sequence[Answer]:
        raise TransportError("the output is closed")

    sends = Picky()
    sends.answers = [judge, ends]
    with pytest.raises(TransportError):
        send(sends, mails("bad", "good"))


@pytest.mark.parametrize("answer", [[RefusedTogether("X")], [Sent("m"), RefusedTogether("X")]], ids=["one", "some"])
def test_an_answer_that_makes_no_sense_is_a_fault_and_no_endless_search(answer: list[Answer]) -> None:
    sends = Scripted()
    sends.answers = [lambda _: answer]
    with pytest.raises(AssertionError, match="as a whole"):
        send(sends, mails(*["good"] * len(answer)))
