"""Credentials, a certificate, clients and transports, and nothing that this machine has of them."""

from functools import partial
from pathlib import Path

import pytest
from mypy_boto3_sesv2 import SESV2Client

from mailroom import ses
from mailroom.simulator import Simulator
from tests.ses.calls import SOURCE, Connect, client_of, make_certificate, set_aws


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials and a region, and nothing from files or from the network."""
    set_aws(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Returns a client of the endpoint at a URL."""
    return partial(client_of, monkeypatch)


@pytest.fixture(scope="module")
def client(running: Simulator, tmp_path_factory: pytest.TempPathFactory) -> SESV2Client:
    with pytest.MonkeyPatch.context() as environment:
        set_aws(environment, tmp_path_factory.mktemp("aws"))
        return client_of(environment, running.url)


@pytest.fixture
def transport(simulator: Simulator, client: SESV2Client) -> ses.SesTransport:
    return ses.SesTransport(client, source=SOURCE)
