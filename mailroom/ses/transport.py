"""The transport itself: one call for a batch, and the search for the mail for whose sake SES refuses it whole."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from mailroom.errors import TransportError
from mailroom.job import Action, SesAccount
from mailroom.mail.transport import CONNECT_TRIES, RETRY_WAIT, Mail, Permitted, always
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed, Untried
from mailroom.ses import answer, classify, network, request
from mailroom.ses.account import account
from mailroom.ses.address import UNSUPPORTED_ADDRESS, ascii_address
from mailroom.ses.classify import Fault
from mailroom.ses.client import Clients
from mailroom.ses.kept import KeptAnswers
from mailroom.ses.request import Entry
from mailroom.ses.sharing import Sharing

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

# SES: at most 50 destinations in a call.
LARGEST_BATCH: Final = 50
# After so many mails refused in one search and none accepted, it may be the configuration, and no more are tried.
MOST_IN_VAIN: Final = 5


class SesTransport:
    """Sends one mail with SendEmail and several with SendBulkEmail. Safe to share between threads."""

    refusals = classify.REFUSALS
    throttles = classify.THROTTLES

    def __init__(
        self,
        client: "SESV2Client",
        *,
        source: str,
        config_set: str = "",
        output_path: Path | None = None,
        renew: "Callable[[], SESV2Client] | None" = None,
    ) -> None:
        """`config_set` may be empty: none. `output_path` is the folder for raw error answers; None: not kept.

        `renew` makes another client for when the first is refused, or comes to no answer; None: it is kept for ever.
        """
        self._clients = Clients(client, renew)
        self.source = source
        self._config_set = config_set
        self._kept = KeptAnswers(output_path) if output_path is not None else None
        self._sharing = Sharing()
        config: Any = client.meta.config
        self.longest_call = self._patience = (
            CONNECT_TRIES * timedelta(seconds=config.connect_timeout)
            + timedelta(seconds=config.read_timeout)
            + (CONNECT_TRIES - 1) * RETRY_WAIT
        )

    def send(
        self,
        action: Action,
        mails: Sequence[Mail],
        *,
        batch: str | None,
        within: timedelta,
        permitted: Permitted = always,
    ) -> Sequence[Outcome]:
        """See `Transport.send`. Addresses that SES cannot take are rejected without a call, and harm nobody else."""
        deadline = time.monotonic() + within.total_seconds()
        addresses = [ascii_address(mail.address) for mail in mails]
        possible = [place for place, address in enumerate(addresses) if address is not None]
        outcomes: list[Outcome] = [Rejected(UNSUPPORTED_ADDRESS, "SES cannot mail to this address")] * len(mails)
        call = _Call(self, action, batch, deadline, permitted)
        # Those that go alone come last: what there is no time for goes back as it was.
        possible.sort(key=lambda place: mails[place].alone)
        entries = [(mails[place], addresses[place] or "") for place in possible]
        sharing = self._sharing.is_worth_it(action)
        together = [entry for entry in entries if sharing and not entry[0].alone]
        found = call.outcomes(together)
        for entry in entries[len(together) :]:
            found += call.alone(entry)
        self._sharing.note(action, found, searched=call.searched)
        for place, outcome in zip(possible, found, strict=True):
            outcomes[place] = outcome
        return outcomes

    def account(self) -> SesAccount:
        """Ask SES for the account; see `mailroom.ses.account`."""
        try:
            return account(self._clients.current())
        except TransportError as error:
            if str(error) not in classify.NOT_ALLOWED:  # for good, perhaps, and no reason to do without connections
                self._clients.doubt()
            raise

    def request(self, action: Action, entries: Sequence[Entry], *, batch: str | None) -> tuple[list[Outcome], Any]:
        """Make one call for all entries; return what became of each, and the raw answer.

        Raises what `network.until_begun` does.
        """
        frame = self._frame(action, entries, batch)

        def call() -> tuple[list[Outcome], Any]:
            client = self._clients.current()
            answered: Any = (client.send_email if len(entries) == 1 else client.send_bulk_email)(**frame)
            return answer.results(answered, len(entries), source=self.source), answered

        return network.until_begun(call, within=self._patience)

    def _frame(self, action: Action, entries: Sequence[Entry], batch: str | None) -> dict[str, Any]:
        frame: dict[str, Any] = {"FromEmailAddress": self.source}
        if self._config_set:
            frame["ConfigurationSetName"] = self._config_set
        if len(entries) == 1:
            return frame | request.single(action, entries[0], batch=batch)
        return frame | request.bulk(action, entries, batch=batch)

    def mind(self, batch: str | None, entries: Sequence[Entry], outcomes: Sequence[Outcome], raw: object) -> None:
        """See to what a call tells besides what became of its mails: none, if that is still to be found."""
        if any(_may_be_the_clients(outcome) for outcome in outcomes):
            self._clients.doubt()
        if self._kept and not (outcomes and all(isinstance(outcome, Sent) for outcome in outcomes)):
            self._kept.append(batch, [mail.token for mail, _ in entries], raw)


def _may_be_the_clients(outcome: Outcome) -> bool:
    """Whether another client, with what is outside now or on another connection, might be told something else."""
    if isinstance(outcome, Unconfirmed):
        return True
    return isinstance(outcome, Deferred) and not outcome.charged and outcome.code not in classify.THROTTLES


class _Call:
    """The call for one batch. Where SES refuses it whole for some mail's sake, it is halved down to that mail.

    Halving takes at most 12 calls for one bad mail in 50, each when it is permitted. It stops in time for the lease,
    when the account turns out to be at fault, and when one mail after another is refused and none accepted: what is
    left then waits.
    """

    def __init__(
        self, transport: SesTransport, action: Action, batch: str | None, deadline: float, permitted: Permitted
    ) -> None:
        self._transport = transport
        self._action = action
        self._batch = batch
        self._deadline = deadline
        self._permitted = permitted
        self._in_vain = False
        self._searching = False
        self.searched = False
        self._called = False
        self._progress = False
        self._refused = 0

    def alone(self, entry: Entry) -> list[Outcome]:
        """Make a call for one that shares none, whatever came of the others."""
        self._searching = False
        return self.outcomes([entry])

    def outcomes(self, entries: Sequence[Entry]) -> list[Outcome]:
        if not entries:
            return []
        if self._in_vain:
            return [Untried("CallsInVain")] * len(entries)
        found = self._try(entries)
        if found is None:
            return self._halved(entries)
        if any(isinstance(one, Sent) for one in found):
            self._refused = -LARGEST_BATCH  # never again in this call: the configuration is sound
        self._refused += sum(isinstance(one, Rejected) for one in found)
        self._progress |= any(isinstance(one, Sent | Rejected) for one in found)
        at_fault = any(isinstance(one, Deferred) and not one.charged for one in found)
        self._in_vain = at_fault or self._refused >= MOST_IN_VAIN
        return found

    def _halved(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Send the halves of what was refused whole. Where the first is fine, the culprit must be in the second."""
        self._searching = self.searched = True
        middle = len(entries) // 2
        first, second = entries[:middle], entries[middle:]
        outcomes = self.outcomes(first)
        if len(second) > 1 and not any(isinstance(outcome, Rejected) for outcome in outcomes):
            return outcomes + self._halved(second)
        return outcomes + self.outcomes(second)

    def _begins(self, count: int) -> bool:
        """Whether a call for `count` mails may begin: one of a search is waited for, but not longer than the lease."""
        latest = self._deadline - self._transport.longest_call.total_seconds()
        if self._called and not self._permitted(count, latest, again=self._searching):
            return False
        self._called = True
        return time.monotonic() <= latest

    def _try(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """Make one call; None if it was refused whole for the sake of some mail that is still to be found."""
        transport = self._transport
        if not self._begins(len(entries)):
            if self._searching and not self._progress:  # or the same mails would be searched like this for ever
                return [Deferred("OutOfTime", "the lease ended the search for a mail", charged=True)] * len(entries)
            return [Untried("OutOfTime")] * len(entries)
        outcomes, raw = self._call(entries)
        transport.mind(self._batch, entries, outcomes or [], raw)
        return outcomes

    def _call(self, entries: Sequence[Entry]) -> tuple[list[Outcome] | None, object]:
        """Make the call; return what `_try` does, and the raw answer, or the name of what came instead."""
        transport = self._transport
        try:
            return transport.request(self._action, entries, batch=self._batch)
        except network.NotBegunError as error:
            raw = error.cause.response if isinstance(error.cause, ClientError) else error.code
            return [classify.outcome(Fault.LOCAL, error.code)] * len(entries), raw
        except network.FailedError as error:
            if isinstance(error.cause, ClientError):
                fault, code = answer.fault(error.cause, source=transport.source)
                whole = fault is Fault.MAIL and len(entries) > 1
                return None if whole else [classify.outcome(fault, code)] * len(entries), error.cause.response
            name = error.code if isinstance(error.cause, BotoCoreError) else "UnreadableAnswerError"
            return [Unconfirmed(name, "no answer from SES, or none that can be read")] * len(entries), name
