"""The calls for one batch: one for all of it, or a search for the mail for whose sake the provider refuses it whole."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from mailroom.errors import TransportError
from mailroom.fleet import clock
from mailroom.job import Action
from mailroom.mail.transport import Mail, Transport
from mailroom.outcome import Answer, Deferred, Outcome, RefusedTogether, Rejected, Scope, Sent, Untried
from mailroom.worker.call_sharing import APART, LONG_APART, CallSharing

# After so many mails refused in one batch and none accepted, more calls for it are in vain. What to believe of these
# refusals is for Refusals to say.
MAX_IN_VAIN: Final = 5
# The same for mails that are refused on the way: mostly this machine's is closed to all of them.
MAX_ON_WAY: Final = 2


class BeforeCall(Protocol):
    """Called before each call of a batch but the first, to make room for it: it may settle, and take a permit."""

    def __call__(self, count: int, until: float, *, again: bool) -> bool:
        """Return whether a call may be made for `count` mails; wait for it until a monotonic moment at the latest.

        `again`: a call was made for them before.
        """
        ...  # pragma: no cover


def at_once(count: int, until: float, *, again: bool) -> bool:
    """Let every call be made at once."""
    return True


def never() -> bool:
    """Go on for as long as there is time."""
    return False


def unknown(scope: Scope) -> bool:
    """Say that of no other mail it is known that it was accepted."""
    return False


class Bisection:
    """The calls for one batch. Where one is refused whole for the sake of some mail, it is halved down to that mail.

    So is one that is refused on the way: a filter or a policy may mind one mail, or the size. Halving takes at most 12
    calls for one bad mail in 50, each after `before_call`. It stops in time for the deadline, when the account turns
    out to be at fault, and when one mail after another is refused and none accepted: what is left then waits.
    """

    def __init__(
        self,
        transport: Transport,
        action: Action,
        *,
        batch: str | None,
        deadline: float,
        sharing: CallSharing,
        before_call: BeforeCall = at_once,
        others_are_accepted: Callable[[Scope], bool] = unknown,
        is_stopping: Callable[[], bool] = never,
    ) -> None:
        """`batch` is its fence, for the transport. No call begins that could end after `deadline`, monotonic seconds.

        `sharing` is what the process knows of mails that share calls. `others_are_accepted`: whether mails in a scope
        were lately. Where none were, what is refused on the way for that scope is a fault of all of it. `is_stopping`:
        whether the process is about to end, for which no mail is charged.
        """
        self._transport = transport
        self._action = action
        self._batch = batch
        self._latest = deadline - transport.max_call_time.total_seconds()
        self._sharing = sharing
        self._before_call = before_call
        self._others_are_accepted = others_are_accepted
        self._is_stopping = is_stopping
        self._called = self._answered = self._searching = self._searched = False
        self._progressed = self._accepted = self._in_vain = False
        self._shared = self._one_by_one = self._failed_together = False
        self._refused = self._on_way = 0
        # How many milliseconds the last call took in which a mail was, by its token.
        self.call_ms: dict[int | None, int] = {}

    def send(self, mails: Sequence[Mail]) -> Sequence[Outcome]:
        """Try to send every mail once; return what became of each, by position.

        What can never be mailed is rejected without a call, and harms nobody else. Raises TransportError if the
        transport took none of the others, and will take no more.
        """
        outcomes: list[Outcome | None] = [self._transport.unmailable(mail) for mail in mails]
        places = [place for place, outcome in enumerate(outcomes) if outcome is None]
        apart = self._transport.keeps_apart
        shares = not apart or self._sharing.is_worth_it(self._action)
        together = [place for place in places if shares and not (apart and mails[place].alone)]
        # Those that go alone come last: what there is no time for goes back as it was.
        alone = sorted(set(places).difference(together), key=lambda place: (mails[place].alone, place))
        found = self._outcomes([mails[place] for place in together])
        for place in alone:
            self._searching = False
            found += self._outcomes([mails[place]])
        self._sharing.note(self._action, found, searched=self._searched)
        if self._one_by_one:
            self._sharing.keep_apart(self._action, LONG_APART)
        elif self._failed_together:
            self._sharing.keep_apart(self._action, APART)  # or one of them takes the others along, up to the last try
        by_place = dict(zip([*together, *alone], found, strict=True))
        return [outcome or by_place[place] for place, outcome in enumerate(outcomes)]

    def _outcomes(self, mails: Sequence[Mail]) -> list[Outcome]:
        """Send mails in one call, or in as many as it takes if that is refused whole."""
        if not mails:
            return []
        if self._in_vain:
            return [Untried("CallsInVain")] * len(mails)
        if len(mails) > 1 and self._one_by_one:
            return [outcome for mail in mails for outcome in self._outcomes([mail])]
        if not self._begin_call(len(mails)):
            is_slow = self._searching and not self._progressed
            if is_slow and not self._is_stopping():  # or the same mails would be searched like this for ever
                return [Deferred("OutOfTime", "the lease ended the search for a mail", charged=True)] * len(mails)
            return [Untried("OutOfTime")] * len(mails)
        answers = self._judged(self._call(mails))
        outcomes = [answer for answer in answers if not isinstance(answer, RefusedTogether)]
        if len(mails) > 1 and all(map(_is_on_way, outcomes)):  # or all of it is refused, and there are none
            return self._halved(mails)
        if len(outcomes) < len(mails):
            raise AssertionError("a transport refuses a call as a whole, or says which mail it refuses")
        self._note(outcomes)
        self._shared |= len(mails) > 1
        self._failed_together |= len(mails) > 1 and all(map(_is_charged, outcomes))
        return outcomes

    def _call(self, mails: Sequence[Mail]) -> Sequence[Answer]:
        """Make a call. Where the transport ends, what earlier calls of the batch have told is worth more than that."""
        began = time.monotonic()
        try:
            answers = self._transport.send(self._action, mails, batch=self._batch)
        except TransportError:
            if not self._answered:
                raise
            self._in_vain = True
            return [Untried("TransportEnded")] * len(mails)
        self.call_ms.update(dict.fromkeys((mail.token for mail in mails), round((time.monotonic() - began) * 1000)))
        if len(answers) != len(mails):
            raise AssertionError("a transport returns an answer for every mail")
        return answers

    def _judged(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """Judge whether what is refused on the way is so for all that is in a scope, or for what the call held."""
        scopes = {one.scope for one in answers if isinstance(one, Deferred) and one.on_way and one.scope is not None}
        if self._accepted or all(map(self._others_are_accepted, scopes)):
            return answers
        return [replace(one, on_way=False) if isinstance(one, Deferred) else one for one in answers]

    def _halved(self, mails: Sequence[Mail]) -> list[Outcome]:
        """Send the halves of what was refused whole. Where the first is fine, the culprit must be in the second."""
        self._searching = self._searched = True
        middle = len(mails) // 2
        first, second = mails[:middle], mails[middle:]
        outcomes = self._outcomes(first)
        if len(second) > 1 and not any(isinstance(outcome, Rejected) or _is_on_way(outcome) for outcome in outcomes):
            return outcomes + self._halved(second)
        outcomes += self._outcomes(second)
        if not self._shared and all(isinstance(outcome, Sent) for outcome in outcomes):
            self._one_by_one = True  # neither is why: calls for several are refused as such, by a policy, say
        return outcomes

    def _begin_call(self, count: int) -> bool:
        """Make room for a call for `count` mails; one of a search is waited for. False if there is none, or no time."""
        if self._called and not self._before_call(count, self._latest, again=self._searching):
            return False
        self._called = True
        return clock.seconds() <= self._latest

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of what a call has shown; where it is in vain to go on, no other follows."""
        refused = sum(isinstance(outcome, Rejected) for outcome in outcomes)
        accepted = any(isinstance(outcome, Sent) for outcome in outcomes)
        self._answered = True
        self._accepted |= accepted  # the configuration is sound, then
        self._refused += refused
        on_way = sum(map(_is_on_way, outcomes))
        self._on_way += on_way
        self._progressed |= accepted or refused + on_way > 0
        at_fault = any(isinstance(one, Deferred) and not one.charged and not one.on_way for one in outcomes)
        is_futile = self._refused >= MAX_IN_VAIN or self._on_way >= MAX_ON_WAY
        self._in_vain |= at_fault or (is_futile and not self._accepted)


def _is_charged(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and outcome.charged


def _is_on_way(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and outcome.on_way
