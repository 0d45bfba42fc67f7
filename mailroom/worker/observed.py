"""A transport whose calls are counted, timed, and watched for one that hangs."""

import time
from collections.abc import Callable, Collection, Sequence

from mailroom.errors import TransportError
from mailroom.job import Action, SesAccount
from mailroom.mail.transport import Mail, Transport
from mailroom.outcome import Answer, Deferred, RefusedTogether, Rejected, Sent, Unconfirmed
from mailroom.worker.telemetry import Result, Telemetry
from mailroom.worker.vitals import Vitals


class ObservedTransport:
    """Does what the transport does. See `Transport`."""

    def __init__(self, transport: Transport, *, telemetry: Telemetry, vitals: Vitals) -> None:
        self._transport = transport
        self._telemetry = telemetry
        self._vitals = vitals
        self.max_call_time = transport.max_call_time
        self.throttles = transport.throttles
        self.keeps_apart = transport.keeps_apart

    def unmailable(self, mail: Mail) -> Rejected | None:
        """See `Transport.unmailable`."""
        return self._transport.unmailable(mail)

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Answer]:
        """See `Transport.send`."""
        self._vitals.beat()
        began = time.monotonic()
        result: Result = "unsent"
        try:
            answers = self._transport.send(action, mails, batch=batch)
            result = result_of(answers, throttles=self.throttles)
        finally:
            operation = "SendEmail" if len(mails) == 1 else "SendBulkEmail"
            self._telemetry.called(operation, result, seconds=time.monotonic() - began)
        return answers


def observed_account(ask: Callable[[], SesAccount], telemetry: Telemetry) -> Callable[[], SesAccount]:
    """Return what asks for the account, and has that counted as a call."""

    def asked() -> SesAccount:
        began = time.monotonic()
        result: Result = "answered"
        try:
            return ask()
        except TransportError:
            result = "refused"
            raise
        finally:
            telemetry.called("GetAccount", result, seconds=time.monotonic() - began)

    return asked


def result_of(answers: Sequence[Answer], *, throttles: Collection[str]) -> Result:
    """What became of a call as a whole: answered where a mail was accepted, or faulted for its own sake.

    Refused: no mail was accepted. Unsent: the call never reached the provider.
    """
    if all(isinstance(answer, Unconfirmed) for answer in answers):
        return "unconfirmed"
    if all(_is_local(answer, throttles) for answer in answers):
        return "unsent"
    if any(isinstance(answer, Sent) for answer in answers):
        return "answered"
    whole = all(isinstance(answer, RefusedTogether | Deferred) for answer in answers)
    return "refused" if whole or len(answers) == 1 else "answered"


def _is_local(answer: Answer, throttles: Collection[str]) -> bool:
    """Whether it says that this machine could not call: nobody's fault that the provider could have told."""
    if not isinstance(answer, Deferred):
        return False
    return not answer.charged and answer.scope is None and answer.code not in throttles
