"""Requests that no SDK would write, sent as they are: only the service model stands in their way."""

import json

import pytest

from mailroom.simulator import Simulator
from tests.simulator.client import ask, bulk, entry

BULK = "/v2/email/outbound-bulk-emails"


@pytest.mark.parametrize(
    ("request_members", "complaint"),
    [
        ({}, "The request lacks BulkEmailEntries, DefaultContent"),
        (bulk() | {"Subject": "s"}, "The request has unknown members: Subject"),
        (bulk({}), "BulkEmailEntries.0 lacks Destination"),
        (bulk({"Destination": {"To": []}}), "BulkEmailEntries.0.Destination has unknown members: To"),
        (bulk() | {"BulkEmailEntries": {}}, "BulkEmailEntries must be a list"),
        (bulk(entry(), "jo@example.com"), "BulkEmailEntries.1 must be an object"),  # type: ignore[arg-type]
        (bulk() | {"FromEmailAddress": 1}, "FromEmailAddress must be a string"),
        (bulk(template=""), "DefaultContent.Template.TemplateName must have 1 to inf characters"),
        ([], "The body is not an object"),
    ],
)
def test_the_answer_names_what_does_not_fit_the_model(ses: Simulator, request_members: object, complaint: str) -> None:
    answer = ask(ses.url + BULK, "POST", json.dumps(request_members))
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (400, "BadRequestException")
    assert answer.json == {"message": complaint}


def test_a_body_that_is_not_json_is_a_bad_request(ses: Simulator) -> None:
    answer = ask(ses.url + BULK, "POST", "<xml>")
    assert (answer.status, answer.json) == (400, {"message": "The body is not JSON"})


def test_an_operation_the_simulator_has_not_is_unknown(ses: Simulator) -> None:
    answer = ask(f"{ses.url}/v2/email/contact-lists", "POST", "{}")
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (404, "UnknownOperationException")
