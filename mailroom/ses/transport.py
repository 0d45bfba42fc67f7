"""The transport itself: one call for a batch, and the search for the mail for whose sake SES refuses it whole."""

import json
import logging
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from mailroom import classify
from mailroom.address import UNSUPPORTED_ADDRESS, ascii_address
from mailroom.classify import Fault
from mailroom.fuse import BLOWS_AT, Fuse
from mailroom.job import Action, Deferred, Outcome, Rejected, Sent, SesAccount, Untried
from mailroom.ses import answer, network, request
from mailroom.ses.account import account
from mailroom.ses.request import Entry
from mailroom.transport import CONNECT_TRIES, RETRY_WAIT, Mail, Permitted, always

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

log = logging.getLogger(__name__)

# SES: at most 50 destinations in a call.
LARGEST_BATCH: Final = 50


class SesTransport:
    """Sends one mail with SendEmail and several with SendBulkEmail. Safe to share between threads."""

    def __init__(
        self,
        client: "SESV2Client",
        *,
        source: str,
        config_set: str = "",
        output_path: Path | None = None,
    ) -> None:
        """`config_set` may be empty: none. `output_path` is the folder for raw error answers; None: not kept."""
        self._client = client
        self.source = source
        self._config_set = config_set
        self._output_path = output_path
        self._fuse = Fuse()
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
        batch: int | None,
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
        together = [entry for entry in entries if not entry[0].alone]
        found = call.outcomes(together)
        for entry in entries[len(together) :]:
            found += call.alone(entry)
        weighed = self._fuse.weigh(action, [address for _, address in entries], found)
        for place, outcome in zip(possible, weighed, strict=True):
            outcomes[place] = outcome
        return outcomes

    def account(self) -> SesAccount:
        """Ask SES for the account; see `mailroom.ses.account`."""
        return account(self._client)

    def request(self, action: Action, entries: Sequence[Entry], *, batch: int | None) -> Any:
        """Make one call for all entries and return its answer; tried again only where nothing can have been sent."""
        frame: dict[str, Any] = {"FromEmailAddress": self.source}
        if self._config_set:
            frame["ConfigurationSetName"] = self._config_set
        if len(entries) == 1:
            frame |= request.single(action, entries[0], batch=batch)
            return network.until_connected(self._client.send_email, frame, within=self._patience)
        frame |= request.bulk(action, entries, batch=batch)
        return network.until_connected(self._client.send_bulk_email, frame, within=self._patience)

    def keep(self, batch: int | None, entries: Sequence[Entry], raw: object) -> None:
        """Append a raw error answer to the folder for them, if there is one. Only its owner may read it.

        A folder that cannot be written to is logged and no more: what the other mails of the call got must not be lost.
        """
        if self._output_path is None:
            return
        tokens = [mail.token for mail, _ in entries]
        line = {"at": datetime.now(UTC).isoformat(), "batch": batch, "tokens": tokens, "answer": raw}
        try:
            self._output_path.mkdir(parents=True, exist_ok=True)
            file = os.open(self._output_path / "ses-errors.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(file, "ab", buffering=0) as out:
                out.write(json.dumps(line, default=str).encode() + b"\n")
        except OSError as error:
            log.warning("ses answer not kept: %s", error)


class _Call:
    """The call for one batch. Where SES refuses it whole for some mail's sake, it is halved down to that mail.

    Halving takes at most 12 calls for one bad mail in 50, each when it is permitted. It stops in time for the lease,
    when the account turns out to be at fault, and when one mail after another is refused and none accepted: what is
    left then waits.
    """

    def __init__(
        self, transport: SesTransport, action: Action, batch: int | None, deadline: float, permitted: Permitted
    ) -> None:
        self._transport = transport
        self._action = action
        self._batch = batch
        self._deadline = deadline
        self._permitted = permitted
        self._in_vain = False
        self._searching = False
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
        self._in_vain = at_fault or self._refused >= BLOWS_AT
        return found

    def _halved(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Send the halves of what was refused whole. Where the first is fine, the culprit must be in the second."""
        self._searching = True
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
        try:
            answered = transport.request(self._action, entries, batch=self._batch)
        except ClientError as error:
            transport.keep(self._batch, entries, error.response)
            fault, code = answer.fault(error, source=transport.source)
            if fault is Fault.MAIL and len(entries) > 1:
                return None
            return [classify.outcome(fault, code)] * len(entries)
        except BotoCoreError as error:
            transport.keep(self._batch, entries, type(error).__name__)
            return [network.outcome(error)] * len(entries)
        outcomes = answer.results(answered, len(entries), source=transport.source)
        if not all(isinstance(outcome, Sent) for outcome in outcomes):
            transport.keep(self._batch, entries, answered)
        return outcomes
