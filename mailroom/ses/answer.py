"""The answers of SES, read with care: results are told apart by position, and what does not add up is unconfirmed."""

import json
from http import HTTPStatus
from typing import Any

from botocore.exceptions import ClientError

from mailroom.outcome import Outcome, Sent, Unconfirmed
from mailroom.ses import classify
from mailroom.ses.classify import Fault


def drop_foreign_body(response_dict: dict[str, Any], **_: object) -> None:
    """Empty the body of an error answer that is not of AWS: no object of JSON, and in whatever letters.

    botocore raises an error of its own at such a body, and nobody would know the status, which says whether the
    request was refused. Of text that is UTF-8 and no JSON it makes a message. For its event `before-parse`.
    """
    if response_dict["status_code"] < HTTPStatus.MULTIPLE_CHOICES:
        return
    try:
        said = json.loads(response_dict["body"].decode())
    except UnicodeDecodeError:
        said = None
    except (ValueError, RecursionError):
        return
    if not isinstance(said, dict) or not isinstance(said.get("__type", ""), str):
        response_dict["body"] = b""


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
    result = result or {}  # botocore leaves None of a null
    if not (result.get("Status") or result.get("Error")):
        return _accepted(result.get("MessageId"))  # nothing says that it was refused
    status = classify.status_word(result.get("Status") or "NoStatus")
    if status == classify.SUCCESS or (status not in classify.STATUSES and result.get("MessageId")):
        return _accepted(result.get("MessageId"))
    found = classify.status_fault(status, message=str(result.get("Error", "")), source=source)
    if found in {Fault.MAIL, Fault.TEMPORARY} and isinstance(accepted := _accepted(result.get("MessageId")), Sent):
        return Unconfirmed(status, "SES answered with a fault, and with a message id", accepted.message_id)
    return classify.outcome(found, status)


def _accepted(message_id: object) -> Outcome:
    if isinstance(message_id, str) and message_id:
        return Sent(classify.word(message_id))
    return Unconfirmed("NoMessageId", "SES answered without a message id")
