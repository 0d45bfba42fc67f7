"""A real boto3 client of the simulator, and requests to send with it."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from mypy_boto3_sesv2 import SESV2Client

SENDER = "noreply@example.com"
ALL = {"login": "jo", "login_text": "jo", "secret": "s3cret", "code": "01234"}
PATIENCE_SECONDS = 60
ONCE = Config(retries={"total_max_attempts": 1}, connect_timeout=PATIENCE_SECONDS, read_timeout=PATIENCE_SECONDS)
# For what never comes: anything else may come later than that.
IMPATIENT = Config(retries={"total_max_attempts": 1}, connect_timeout=PATIENCE_SECONDS, read_timeout=0.3)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a plain HTTP request."""

    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(url: str, method: str = "GET", body: str | None = None) -> Answer:
    """Send a request as it is, with no SDK in between."""
    place = urlsplit(url)
    with contextlib.closing(HTTPConnection(place.netloc, timeout=PATIENCE_SECONDS)) as connection:
        connection.request(method, place.path + (f"?{place.query}" if place.query else ""), body)
        with connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read().decode())


def connect(url: str, config: Config | None = ONCE) -> SESV2Client:
    return boto3.client(
        "sesv2",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=config,
    )


def entry(to: str = "jo@example.com", *, token: int = 1, variables: Mapping[str, Any] | str = ALL) -> dict[str, Any]:
    """One entry of a bulk call; `variables` may also be the JSON itself."""
    text = variables if isinstance(variables, str) else json.dumps(variables)
    return {
        "Destination": {"ToAddresses": [to]},
        "ReplacementTags": [{"Name": "mailroom_token", "Value": str(token)}, {"Name": "mailroom_batch", "Value": "7"}],
        "ReplacementEmailContent": {"ReplacementTemplate": {"ReplacementTemplateData": text}},
    }


def bulk(
    *entries: Mapping[str, Any], defaults: str = "{}", template: str = "activationv1", **more: Any
) -> dict[str, Any]:
    """The arguments of a SendBulkEmail."""
    content = {"Template": {"TemplateName": template, "TemplateData": defaults}}
    return {"FromEmailAddress": SENDER, "DefaultContent": content, "BulkEmailEntries": list(entries), **more}


def single(
    to: str = "jo@example.com", *, variables: Mapping[str, Any] = ALL, template: str = "activationv1", **more: Any
) -> dict[str, Any]:
    """The arguments of a SendEmail."""
    content = {"Template": {"TemplateName": template, "TemplateData": json.dumps(variables)}}
    return {
        "FromEmailAddress": SENDER,
        "Destination": {"ToAddresses": [to]},
        "Content": content,
        "EmailTags": [{"Name": "mailroom_token", "Value": "1"}],
        **more,
    }


def statuses(client: SESV2Client, request: dict[str, Any]) -> list[str]:
    """Send a bulk call; the status of each entry by position."""
    return [result["Status"] for result in client.send_bulk_email(**request)["BulkEmailEntryResults"]]
