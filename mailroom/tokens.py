"""Signing, verifying and consuming the tokens that travel in mails.

A signed token is `base64url(secret || HMAC-SHA256(key, message))` without padding: 64 bytes, 86 characters.
The message is the action's path and the secret, and for a recovery also the five ASCII digits of its code.
"""

import base64
import hmac
from typing import Final

from sqlalchemy import Connection, func, literal, select

from mailroom import schema
from mailroom.errors import TokenError
from mailroom.job import Action

SECRET_BYTES: Final = 32
KEY_BYTES: Final = 32
SIGNED_CHARACTERS: Final = 86

_PATHS: Final = {Action.ACTIVATION: b"/activate", Action.PASSWORD_RECOVERY: b"/recover"}


def sign(secret: bytes, *, action: Action, key: bytes, code: str | None = None) -> str:
    """Return the 86 characters that go into a link.

    `secret` and `key` are 32 bytes each. A recovery needs its `code`; an activation ignores it.
    Raises ValueError when they have another shape, which is a fault of the caller.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError("a secret is 32 bytes")
    _check_key(key)
    return _encode(secret + _mac(secret, action=action, key=key, code=code))


def verify(token: str, *, action: Action, key: bytes, code: str | None = None) -> bytes:
    """Return the 32-byte secret of a token that `sign` made with the same action, key and code.

    Raises TokenError, always the same, for everything else: wrong length or alphabet, padding, base64 that is not
    canonical, another action, code or key. The comparison takes the same time wherever the difference is.
    This proves who made the token, not that it is still good: see `consume`.
    Raises ValueError for a key that is not 32 bytes: with an empty one, anybody's token would verify.
    """
    _check_key(key)
    raw = _decode(token)
    secret, mac = raw[:SECRET_BYTES], raw[SECRET_BYTES:]
    try:
        expected = _mac(secret, action=action, key=key, code=code)
    except ValueError:
        raise TokenError from None
    if not hmac.compare_digest(mac, expected):
        raise TokenError
    return secret


def consume(connection: Connection, token: str, *, action: Action, key: bytes, code: str | None = None) -> int:
    """Verify a token, mark it consumed, and return the id of its account.

    The mark is atomic: of any number of callers one succeeds. Consuming an activation token activates a provisioned
    account in the same transaction, which is the caller's to commit. Raises TokenError when the token does not
    verify, does not exist, has expired or was consumed before. Call it on POST, never on GET: link scanners fetch
    every address they see.
    """
    secret = verify(token, action=action, key=key, code=code)
    consumed = func.consume_token(
        secret,
        literal(action.value, schema.token_action),
        code if action is Action.PASSWORD_RECOVERY else None,
    )
    account: int | None = connection.scalar(select(consumed))
    if account is None:
        raise TokenError
    return account


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError("a key is 32 bytes")


def _mac(secret: bytes, *, action: Action, key: bytes, code: str | None) -> bytes:
    message = _PATHS[action] + secret
    if action is Action.PASSWORD_RECOVERY:
        if code is None or len(code) != 5 or not (code.isascii() and code.isdigit()):
            raise ValueError("a recovery code is five ASCII digits")
        message += code.encode("ascii")
    return hmac.digest(key, message, "sha256")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(token: str) -> bytes:
    """Undo `_encode`; whatever it could not have written is refused, since base64 lets several spellings mean one."""
    if len(token) != SIGNED_CHARACTERS or not token.isascii():
        raise TokenError
    try:
        raw = base64.b64decode(token + "==", altchars=b"-_", validate=True)
    except ValueError:
        raise TokenError from None
    if _encode(raw) != token:
        raise TokenError
    return raw
