"""The calls for one batch: one for all of it, or a search for the mail for whose sake the provider refuses it whole."""

import time
from collections.abc import Sequence
from typing import Final, Protocol

from mailroom.job import Action
from mailroom.mail.transport import Mail, Transport
from mailroom.outcome import Deferred, Outcome, RefusedTogether, Rejected, Sent, Untried
from mailroom.worker.call_sharing import CallSharing

# After so many mails refused in one search and none accepted, it may be the configuration, and no more are tried.
MAX_IN_VAIN: Final = 5


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


class Bisection:
    """The calls for one batch. Where one is refused whole for the sake of some mail, it is halved down to that mail.

    Halving takes at most 12 calls for one bad mail in 50, each after `before_call`. It stops in time for the deadline,
    when the account turns out to be at fault, and when one mail after another is refused and none accepted: what is
    left then waits.
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
    ) -> None:
        """`batch` is its fence, for the transport. No call begins that could end after `deadline`, monotonic seconds.

        `sharing` is what the process knows of mails that share calls.
        """
        self._transport = transport
        self._action = action
        self._batch = batch
        self._latest = deadline - transport.longest_call.total_seconds()
        self._sharing = sharing
        self._before_call = before_call
        self._called = self._searching = self._searched = False
        self._progressed = self._accepted = self._in_vain = False
        self._refused = 0

    def send(self, mails: Sequence[Mail]) -> Sequence[Outcome]:
        """Try to send every mail once; return what became of each, by position.

        Raises TransportError if the transport took none of them, and will take no more.
        """
        if not self._transport.keeps_apart:
            return self._outcomes(mails)
        shares = self._sharing.is_worth_it(self._action)
        # Those that go alone come last: what there is no time for goes back as it was.
        places = sorted(range(len(mails)), key=lambda place: mails[place].alone)
        together = [place for place in places if shares and not mails[place].alone]
        found = self._outcomes([mails[place] for place in together])
        for place in places[len(together) :]:
            self._searching = False
            found += self._outcomes([mails[place]])
        called = [outcome for outcome in found if not self._was_never_called(outcome)]
        self._sharing.note(self._action, called, searched=self._searched)
        by_place = dict(zip(places, found, strict=True))
        return [by_place[place] for place in range(len(mails))]

    def _outcomes(self, mails: Sequence[Mail]) -> list[Outcome]:
        """Send mails in one call, or in as many as it takes if that is refused whole."""
        if not mails:
            return []
        if self._in_vain:
            return [Untried("CallsInVain")] * len(mails)
        if not self._may_call(len(mails)):
            if self._searching and not self._progressed:  # or the same mails would be searched like this for ever
                return [Deferred("OutOfTime", "the lease ended the search for a mail", charged=True)] * len(mails)
            return [Untried("OutOfTime")] * len(mails)
        answered = self._transport.send(self._action, mails, batch=self._batch)
        if len(answered) != len(mails):
            raise AssertionError("a transport returns an outcome for every mail")
        known = [outcome for outcome in answered if not isinstance(outcome, RefusedTogether)]
        self._note(known)
        if len(known) == len(mails):
            return known
        unnamed = [place for place, outcome in enumerate(answered) if isinstance(outcome, RefusedTogether)]
        searched = self._halved([mails[place] for place in unnamed])
        by_place = dict(zip(unnamed, searched, strict=True))
        rest = iter(known)
        return [by_place[place] if place in by_place else next(rest) for place in range(len(mails))]

    def _halved(self, mails: Sequence[Mail]) -> list[Outcome]:
        """Send the halves of what was refused whole. Where the first is fine, the culprit must be in the second."""
        self._searching = self._searched = True
        middle = len(mails) // 2
        first, second = mails[:middle], mails[middle:]
        outcomes = self._outcomes(first)
        if len(second) > 1 and not any(isinstance(outcome, Rejected) for outcome in outcomes):
            return outcomes + self._halved(second)
        return outcomes + self._outcomes(second)

    def _may_call(self, count: int) -> bool:
        """Whether a call for `count` mails may begin: one of a search is waited for, but not longer than the lease."""
        if self._called and not self._before_call(count, self._latest, again=self._searching):
            return False
        self._called = True
        return time.monotonic() <= self._latest

    def _was_never_called(self, outcome: Outcome) -> bool:
        """Whether a mail was rejected before any call, for its address: that tells nothing of calls."""
        return isinstance(outcome, Rejected) and outcome.code not in self._transport.refusals

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of what a call has shown; where it is in vain to go on, no other follows."""
        refusals = [one for one in outcomes if isinstance(one, Rejected) and not self._was_never_called(one)]
        accepted = any(isinstance(one, Sent) for one in outcomes)
        self._accepted |= accepted  # the configuration is sound, then
        self._refused += len(refusals)
        self._progressed |= accepted or bool(refusals)
        at_fault = any(isinstance(one, Deferred) and not one.charged for one in outcomes)
        self._in_vain = at_fault or (self._refused >= MAX_IN_VAIN and not self._accepted)
