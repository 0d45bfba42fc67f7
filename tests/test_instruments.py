"""What the storm breaks things with does break them, and nothing else."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from sqlalchemy import text

from mailroom.db.engine import connect_engine
from mailroom.simulator import Simulator
from tests import clock
from tests.front import Front, certify
from tests.machine import missing
from tests.running import aws
from tests.servers import BINARIES, GIVEN

EACH_SERVER = False

MOMENT = timedelta(seconds=30)


@pytest.mark.parametrize("binaries", BINARIES)
def test_a_clock_that_is_stepped_is_wrong_in_every_session_until_it_is_put_right(binaries: str) -> None:
    if GIVEN:
        pytest.skip("the clock of a server that was given is not ours")
    if not clock.LIBRARY.exists():
        missing(f"Debian's faketime, {clock.LIBRARY}")
    folder = BINARIES[binaries]
    if folder is not None and not folder.exists():
        missing(f"Debian's PostgreSQL in {folder}")
    with clock.WrongClockPostgres(folder) as postgres:
        engine = connect_engine(postgres.url(), pool_size=2)
        with engine.connect() as one, engine.connect() as other:
            right = one.execute(text("SELECT now()")).scalar_one()
            for step in (timedelta(minutes=-10), timedelta(hours=1), timedelta(0)):
                postgres.step(step)
                for connection in (one, other):
                    now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
                    assert timedelta(0) <= now - right - step < MOMENT
        engine.dispose()


@pytest.fixture
def front(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    certificate = certify(tmp_path)
    with Front(simulator.url, certificate) as front:
        given = aws(simulator) | {"AWS_ENDPOINT_URL_SESV2": front.url, "AWS_CA_BUNDLE": str(certificate)}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        yield front


def ask(key: str = "test") -> bool:
    """Ask SES for the account over a new connection, signed with a key; return whether it may send."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30)
    client = boto3.client("sesv2", aws_access_key_id=key, aws_secret_access_key="test", config=config)
    try:
        return client.get_account()["SendingEnabled"]
    finally:
        client.close()


def test_a_key_that_is_refused_is_refused_by_name_and_another_is_not(front: Front) -> None:
    assert ask("AKIAOLD")
    front.refuse("AKIAOLD", code="ExpiredTokenException")
    with pytest.raises(ClientError) as refused:
        ask("AKIAOLD")
    assert refused.value.response["Error"]["Code"] == "ExpiredTokenException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert ask("AKIANEW")


def test_a_handshake_that_stalls_goes_on_when_it_is_told_to(front: Front) -> None:
    front.stall()
    answers: list[bool] = []
    asking = Thread(target=lambda: answers.append(ask()))
    asking.start()
    asking.join(0.3)
    assert not answers
    front.resume()
    asking.join(30)
    assert answers
