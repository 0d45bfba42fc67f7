"""What is counted or looked at is given the time that it needs: how soon it is cut off is what few tests are about."""

from datetime import timedelta

import pytest

from mailroom.db import engine
from mailroom.db.bounded import bounded
from mailroom.ops import refresh

PATIENCE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may stand still for seconds, which is longer than a look may take."""
    monkeypatch.setattr(engine, "CANCEL_WITHIN", PATIENCE)
    monkeypatch.setattr(refresh, "SOON", PATIENCE)
    monkeypatch.setattr(refresh, "ANSWER_WITHIN", PATIENCE)
    monkeypatch.setattr(bounded.__wrapped__, "__defaults__", (PATIENCE,))  # type: ignore[attr-defined]
