"""Credentials and a certificate for the transport, and nothing that this machine has of them."""

from pathlib import Path

import pytest

from tests.ses.calls import make_certificate, set_aws


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials and a region, and nothing from files or from the network."""
    set_aws(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))
