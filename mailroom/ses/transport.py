"""The transport itself: one call for several mails, and what its answer means for each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from botocore.exceptions import BotoCoreError, ClientError

from mailroom.errors import TransportError
from mailroom.job import Action, SesAccount
from mailroom.mail.transport import CONNECT_TRIES, RETRY_WAIT, Mail
from mailroom.outcome import Answer, Deferred, RefusedTogether, Rejected, Scope, Sent, Unconfirmed
from mailroom.ses import answer, classify, network
from mailroom.ses.account import account
from mailroom.ses.address import UNSUPPORTED_ADDRESS, ascii_address
from mailroom.ses.answer_file import AnswerFile
from mailroom.ses.classify import Fault
from mailroom.ses.client import Clients
from mailroom.ses.request import Entry, Requests

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client


class SesTransport:
    """Sends one mail with SendEmail and several with SendBulkEmail. Safe to share between threads."""

    throttles = classify.THROTTLES
    keeps_apart = True

    def __init__(
        self,
        client: "SESV2Client",
        *,
        source: str,
        config_set: str = "",
        site: UUID | None = None,
        output_path: Path | None = None,
        renew: "Callable[[], SESV2Client] | None" = None,
    ) -> None:
        """`config_set` may be empty: none. `site` is the database's, for the tags: see `mailroom.queue.events`.

        `output_path` is the folder for raw error answers; None: not kept. `renew` makes another client for when the
        first is refused, or comes to no answer; None: it is kept for ever.
        """
        network.guard(client)
        self._clients = Clients(client, renew and (lambda: _guarded(renew())))
        self._requests = Requests(client, source=source, config_set=config_set, site=site)
        self._kept = AnswerFile(output_path) if output_path is not None else None
        config: Any = client.meta.config
        self.max_call_time = self._patience = (
            CONNECT_TRIES * timedelta(seconds=config.connect_timeout)
            + timedelta(seconds=config.read_timeout)
            + (CONNECT_TRIES - 1) * RETRY_WAIT
        )

    def unmailable(self, mail: Mail) -> Rejected | None:
        """See `Transport.unmailable`: SES takes no address that is not ASCII."""
        if ascii_address(mail.address) is not None:
            return None
        return Rejected(UNSUPPORTED_ADDRESS, "SES cannot mail to this address")

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Answer]:
        """See `Transport.send`."""
        return self._call(action, [(mail, ascii_address(mail.address) or mail.address) for mail in mails], batch)

    def account(self) -> SesAccount:
        """Ask SES for the account; see `mailroom.ses.account`."""
        try:
            return account(self._clients.current())
        except TransportError as error:
            if str(error) not in classify.DENIALS:  # for good, perhaps, and no reason to do without connections
                self._clients.doubt()
            raise

    def _call(self, action: Action, entries: Sequence[Entry], batch: str | None) -> Sequence[Answer]:
        """Make one call for all entries; return what became of each."""
        outcomes, raw = self._answer(action, entries, batch)
        if action.source is not None:
            outcomes = [_of_action(outcome) for outcome in outcomes]
        if any(_may_be_the_clients(outcome) for outcome in outcomes):
            self._clients.doubt()
        if self._kept and not all(isinstance(outcome, Sent) for outcome in outcomes):
            self._kept.append(batch, [mail.token for mail, _ in entries], raw)
        return outcomes

    def _answer(self, action: Action, entries: Sequence[Entry], batch: str | None) -> tuple[Sequence[Answer], object]:
        """Make the call; return what became of each entry, and the raw answer, or the name of what came instead."""
        try:
            return self._request(action, entries, batch)
        except network.NotBegunError as error:
            raw = error.cause.response if isinstance(error.cause, ClientError) else error.code
            return [classify.outcome(Fault.LOCAL, error.code)] * len(entries), raw
        except network.FailedError as error:
            if isinstance(error.cause, ClientError):
                fault, code = answer.fault(error.cause, source=self._requests.source(action))
                whole = fault is Fault.MAIL and len(entries) > 1
                one: Answer = RefusedTogether(code) if whole else classify.outcome(fault, code)
                return [one] * len(entries), error.cause.response
            name = error.code if isinstance(error.cause, BotoCoreError) else "UnreadableAnswerError"
            return [Unconfirmed(name, "no answer from SES, or none that can be read")] * len(entries), name

    def _request(self, action: Action, entries: Sequence[Entry], batch: str | None) -> tuple[Sequence[Answer], object]:
        """Raises what `network.call_with_connect_retries` does."""
        request = self._requests.write(action, entries, batch=batch)
        source = self._requests.source(action)

        def call() -> tuple[Sequence[Answer], object]:
            client = self._clients.current()
            answered: Any = (client.send_email if len(entries) == 1 else client.send_bulk_email)(**request)
            return answer.results(answered, len(entries), source=source), answered

        return network.call_with_connect_retries(call, within=self._patience)


def _guarded(client: "SESV2Client") -> "SESV2Client":
    network.guard(client)
    return client


def _of_action(outcome: Answer) -> Answer:
    """Return what became of a mail of an action with a sender of its own: if that is refused, others' mails may go."""
    if not isinstance(outcome, Deferred):
        return outcome
    is_senders = outcome.scope is Scope.IDENTITY or (
        outcome.scope is Scope.ACCOUNT and outcome.code in classify.DENIALS
    )
    return replace(outcome, scope=Scope.ACTION) if is_senders else outcome


def _may_be_the_clients(outcome: Answer) -> bool:
    """Whether another client, with what is outside now or on another connection, might be told something else."""
    if isinstance(outcome, Unconfirmed):
        return True
    return isinstance(outcome, Deferred) and not outcome.charged and outcome.code not in classify.THROTTLES
