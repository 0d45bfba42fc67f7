"""The kinds of mail that there are from the start, as their rows have them, and the lanes of them."""

from typing import Final

from sqlalchemy import Connection, text

from mailroom import tokens
from mailroom.job import Action, Priority
from mailroom.queue.lanes import Lanes

ACTIVATION: Final = Action("activation", number=1, template="activationv1", path="/activate")
RECOVERY: Final = Action(
    "password_recovery",
    number=2,
    template="passwordrecoveryv1",
    path="/recover",
    has_code=True,
    priority=Priority.URGENT,
)
ACTIONS: Final = (ACTIVATION, RECOVERY)
KINDS: Final = Lanes(ACTIONS)
LANES: Final = KINDS.all


def sign(secret: bytes, *, action: str, key: bytes, code: str | None = None) -> str:
    """Sign as a worker does: with the code, where the action has one."""
    kind = KINDS.actions[action]
    return tokens.sign(secret, path=kind.path, key=key, code=code if kind.has_code else None)


def verify(token: str, *, action: str, key: tokens.Keys, code: str | None = None) -> bytes:
    """Verify as `consume` does: with the code, where the action has one."""
    kind = KINDS.actions[action]
    return tokens.verify(token, path=kind.path, key=key, code=code if kind.has_code else None)


def limit_recoveries(connection: Connection, per_15_minutes: int | None, per_day: int | None) -> None:
    """Let one account have so many recoveries."""
    statement = "UPDATE actions SET (per_15_minutes, per_day) = (:some, :more) WHERE name = 'password_recovery'"
    connection.execute(text(statement), {"some": per_15_minutes, "more": per_day})
