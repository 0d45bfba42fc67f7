"""The policies and settings of docs/feedback.md: each is JSON, and allows what mailroom asks for and nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailroom.ses.event_doctor import WANTED
from tests.machine import ROOT

PAGE = (ROOT / "docs" / "feedback.md").read_text()
NAMES = {
    "REGION": "eu-west-1",
    "SET": "default",
    "NAME": "mailroom-events",
    "ACCOUNT": "123456789012",
    "TOPIC": "arn:aws:sns:eu-west-1:123456789012:mailroom-events",
    "QUEUE": "arn:aws:sqs:eu-west-1:123456789012:mailroom-events",
    "DEAD": "arn:aws:sqs:eu-west-1:123456789012:mailroom-events-dead",
}
TOPIC, QUEUE, DEAD = (NAMES[name] for name in ("TOPIC", "QUEUE", "DEAD"))
# What each word of the policy is for: the calls of mailroom/ses. The last two are those of `doctor`.
ASKED = {
    "sqs:ReceiveMessage": "receive_message",
    "sqs:DeleteMessage": "delete_message_batch",
    "sqs:ChangeMessageVisibility": "change_message_visibility_batch",
    "sqs:GetQueueAttributes": "get_queue_attributes",
    "ses:GetConfigurationSetEventDestinations": "get_configuration_set_event_destinations",
}


def filled(words: str) -> str:
    """As the shell fills in what the first lines of the page set."""
    within = re.sub(r"'(\$[^']*)'", r"\1", words)
    return re.sub(r"\$([A-Z]+)", lambda found: NAMES[found[1]], within)


def given(option: str) -> list[Any]:
    """What is given to an option of the AWS command line in JSON, each time that it is."""
    return [json.loads(filled(words)) for words in re.findall(rf"{option} '(\{{.*?\}})'\s*\n", PAGE + "\n", re.S)]


def actions(policy: Any) -> set[str]:
    allowed = [one["Action"] for one in policy["Statement"]]
    return {name for each in allowed for name in ([each] if isinstance(each, str) else each)}


def test_only_the_configuration_set_of_the_account_may_publish_to_the_topic() -> None:
    [policy] = given("--attribute-value")
    [one] = policy["Statement"]
    assert (one["Principal"], one["Action"], one["Resource"]) == (
        {"Service": "ses.amazonaws.com"},
        "sns:Publish",
        TOPIC,
    )
    assert one["Condition"] == {
        "StringEquals": {
            "AWS:SourceAccount": "123456789012",
            "AWS:SourceArn": "arn:aws:ses:eu-west-1:123456789012:configuration-set/default",
        }
    }


def test_only_the_topic_may_write_to_the_queues(tmp_path: Path) -> None:
    """The page's own program, as the shell would run it."""
    [program] = re.findall(r"<<END\n(.*?)\nEND\n", PAGE, re.S)
    subprocess.run([sys.executable, "-c", filled(program)], cwd=tmp_path, check=True)
    for file, queue in (("queue.json", QUEUE), ("dead.json", DEAD)):
        settings = json.loads((tmp_path / file).read_text())
        [one] = json.loads(settings["Policy"])["Statement"]
        assert (one["Principal"], one["Action"]) == ({"Service": "sns.amazonaws.com"}, "sqs:SendMessage")
        assert (one["Resource"], one["Condition"]) == (queue, {"ArnEquals": {"aws:SourceArn": TOPIC}})
        if file == "queue.json":
            assert json.loads(settings["RedrivePolicy"]) == {"deadLetterTargetArn": DEAD, "maxReceiveCount": "10"}


def test_what_cannot_be_delivered_goes_to_the_dead_letter_queue() -> None:
    [subscription] = given("--attributes")
    assert subscription["RawMessageDelivery"] == "true"
    assert json.loads(subscription["RedrivePolicy"]) == {"deadLetterTargetArn": DEAD}


def test_what_is_published_is_what_is_read() -> None:
    [destination] = given("--event-destination")
    assert destination["Enabled"] is True
    assert destination["SnsDestination"] == {"TopicArn": TOPIC}
    assert set(destination["MatchingEventTypes"]) == set(WANTED)


def test_the_credentials_may_do_what_is_asked_for_and_no_more() -> None:
    [policy] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.S)]
    sources = "".join(file.read_text() for file in (ROOT / "mailroom" / "ses").glob("event_*.py"))
    asked = set(re.findall(r"(?:lient|current\(\))\.(\w+)\(", sources))
    assert asked == set(ASKED.values())
    assert actions(policy) == set(ASKED)
    for one in policy["Statement"]:
        resources = [one["Resource"]] if isinstance(one["Resource"], str) else one["Resource"]
        assert one["Effect"] == "Allow"
        assert set(resources) <= ({QUEUE, DEAD} if "sqs:" in str(one["Action"]) else {"*"})


@pytest.mark.parametrize("words", [r"--attributes file://(\S+)", r"open\(\"(\S+)\", \"w\"\)"])
def test_the_files_that_are_named_are_those_that_are_made(words: str) -> None:
    assert sorted(re.findall(words, PAGE)) == ["dead.json", "queue.json"]
