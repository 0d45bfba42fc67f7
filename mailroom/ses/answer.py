"""The answers of SES, read with care: results are told apart by position, and what does not add up is unconfirmed."""

from typing import Any

from botocore.exceptions import ClientError

from mailroom.outcome import Outcome, Sent, Unconfirmed
from mailroom.ses import classify
from mailroom.ses.classify import Fault


def fault(error: ClientError, *, source: str) -> tuple[Fault, str]:
    """Say whose fault the error answer to a request is that was begun, and its code."""
    code = classify.error_code(error.response)
    said = error.response.get("ResponseMetadata", {})
    found = classify.exception_fault(
        code,
        http_status=said.get("HTTPStatusCode", 500),
        message=str(error.response.get("Error", {}).get("Message", "")),
        source=source,
        of_aws=bool(said.get("RequestId")),
    )
    return found, code


def results(answer: Any, count: int, *, source: str) -> list[Outcome]:
    """Return the outcome of each of `count` mails."""
    if count == 1:
        return [_accepted(answer.get("MessageId"))]
    found = answer.get("BulkEmailEntryResults")
    if not isinstance(found, list) or len(found) != count:
        return [Unconfirmed("ResultCount", "SES answered without a result for each mail")] * count
    return [_result(result, source) for result in found]


def _result(result: Any, source: str) -> Outcome:
    if result is None:  # what botocore leaves of a null
        return _accepted(None)
    status = classify.code_word(result.get("Status", "NoStatus"))
    if status == "SUCCESS" or (status not in classify.STATUSES and result.get("MessageId")):
        return _accepted(result.get("MessageId"))
    found = classify.status_fault(status, message=str(result.get("Error", "")), source=source)
    if found in {Fault.MAIL, Fault.TEMPORARY} and isinstance(accepted := _accepted(result.get("MessageId")), Sent):
        return Unconfirmed(status, "SES answered with a fault, and with a message id", accepted.message_id)
    return classify.outcome(found, status)


def _accepted(message_id: object) -> Outcome:
    if isinstance(message_id, str) and message_id:
        return Sent(classify.word(message_id))
    return Unconfirmed("NoMessageId", "SES answered without a message id")
