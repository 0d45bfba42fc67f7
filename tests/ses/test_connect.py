"""A client is made in a while or not at all, and says what it lacks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mailroom import ses
from mailroom.errors import SettingsError
from mailroom.mail.transport import MAX_CALL_TIME
from mailroom.simulator import Fault, Simulator
from tests.ses.calls import (
    SOURCE,
    kinds,
    mail,
    send,
)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials were found"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "PartialCredentialsError"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound"),
        ({"AWS_CONFIG_FILE": __file__}, "ConfigParseError"),
        ({"AWS_ENDPOINT_URL_SESV2": "not a URL"}, "its endpoint is not a URL .*AWS_ENDPOINT_URL_SESV2"),
        *(
            ({"AWS_ENDPOINT_URL_SESV2": url}, "its endpoint is not a URL .*AWS_ENDPOINT_URL_SESV2")
            for url in ("http://127.0.0.1:99999", "http://127.0.0.1:-1", "http://127.0.0.1:x", "ftp://127.0.0.1")
        ),
        ({"AWS_DEFAULTS_MODE": "nonsense"}, "InvalidDefaultsMode"),
    ],
)
def test_a_wrong_aws_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"SES cannot be used: .*{says}") as raised:
        ses.connect(region="eu-west-1", connections=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("value", ["canary\n", " canary", "can ary", "can\u200bary"])
def test_a_key_with_a_line_end_in_it_is_told_at_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """As of a file of secrets. The request could not be written, or its signature would be another one."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"SES cannot be used: .* a blank or a line end") as raised:
        ses.connect(region="eu-west-1", connections=1)
    assert "ary" not in str(raised.value)
    with pytest.raises(SettingsError, match=r"SQS cannot be used: .* a blank or a line end"):
        ses.connect_to_queue("https://sqs.eu-west-1.amazonaws.com/1/q", region=None, connections=1)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    ("region", "says"), [(None, "Set AWS_REGION"), ("", "Set AWS_REGION"), ("not a region", "InvalidRegionError")]
)
def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch, region: str | None, says: str, empty: bool) -> None:
    """A variable that is empty, as a file of compose may leave it, names none."""
    if empty:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "")
    with pytest.raises(SettingsError, match=says) as raised:
        ses.connect(region=region, connections=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("region", [None, ""])
def test_a_region_may_come_from_botocores_own_chain(monkeypatch: pytest.MonkeyPatch, region: str | None) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert ses.connect(region=region, connections=1).meta.region_name == "eu-north-1"


def test_retries_and_time_outs_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "10")
    client = ses.connect(region="eu-west-1", connections=3)
    config: Any = client.meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (3, 15, 3)
    assert ses.SesTransport(client, source=SOURCE).max_call_time == MAX_CALL_TIME


def test_many_threads_share_one_client(
    simulator: Simulator, transport: ses.SesTransport, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(8)
    simulator.faults.add(Fault(latency_ms=20, times=None))

    def work(first: int) -> list[str]:
        together.wait()
        return [
            kind for n in range(5) for kind in kinds(send(transport, [mail(first + 2 * n), mail(first + 2 * n + 1)]))
        ]

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(work, range(0, 80, 10))] == [["sent"] * 10] * 8
    assert simulator.ledger.sent_tokens() == {str(token): 1 for token in range(80)}
    assert caplog.records == []
