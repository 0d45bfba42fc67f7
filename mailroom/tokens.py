"""Signing, verifying and consuming the tokens that travel in mails.

A signed token is `base64url(secret || HMAC-SHA256(key, message))` without padding: 64 bytes, 86 characters.
The message is the path of the action and the secret, and where the action has a code also its five ASCII digits.
"""

import base64
import hmac
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

from sqlalchemy import Connection, Row, text

from mailroom.db import caller
from mailroom.db.namespace import DEFAULT_SCHEMA, quoted_in_text
from mailroom.errors import TokenConflictError, TokenError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SECRET_BYTES: Final = 32
KEY_BYTES: Final = 32
SIGNED_CHARACTERS: Final = 86

# One key, or several, of which any may have signed: the old and the new one, while one takes the other's place.
Keys = bytes | Sequence[bytes]

_NO_KEY: Final = f"a key is {KEY_BYTES} bytes"
# In the schema, which is filled in; consume_token is told that a guess was counted, as far as there is one to count.
_ACTION: Final = "SELECT path, has_code FROM {schema}.action_path(CAST(:action AS text))"
_GUESSES_LEFT: Final = "SELECT {schema}.guesses_left(CAST(:secret AS bytea)) AS left, current_setting('role') AS role"
_COUNT_GUESS: Final = "SELECT {schema}.count_guess(CAST(:secret AS bytea))"
_UNCOUNT_GUESS: Final = "SELECT {schema}.uncount_guess(CAST(:secret AS bytea))"
_ROLE: Final = text("SELECT current_setting('role')")
_CONSUME: Final = (
    "SELECT account, reference, address FROM {schema}.consume_token("
    "CAST(:secret AS bytea), CAST(:action AS text), CAST(:code AS text), true)"
)


class Account(NamedTuple):
    """Whose token was consumed: the account's id, the application's own key for it, and the address that is proven."""

    id: int
    reference: str | None
    address: str


def key(words: str) -> bytes:
    """Read a key as MAILROOM_SECRET_KEY has it: 64 hex digits. Raises ValueError, which never repeats them."""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", words, re.ASCII) is None:
        raise ValueError("a key is 64 hex digits")
    return bytes.fromhex(words)


def sign(secret: bytes, *, path: str, key: bytes, code: str | None = None) -> str:
    """Return the 86 characters that go into a link.

    `secret` and `key` are 32 bytes each; `path` is the action's. Give its `code` where the action has one, and only
    there. Raises ValueError when they have another shape, which is a fault of the caller.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError("a secret is 32 bytes")
    if len(key) != KEY_BYTES:
        raise ValueError(_NO_KEY)
    if code is not None and not _is_code(code):
        raise ValueError("a code is five ASCII digits")
    return _encode(secret + _mac(secret, path=path, key=key, code=code))


def verify(token: str, *, path: str, key: Keys, code: str | None = None) -> bytes:
    """Return the 32-byte secret of a token that `sign` made with the same path, code and key, or one of these keys.

    Raises TokenError, always the same, for everything else: wrong length or alphabet, padding, base64 that is not
    canonical, another path, code or key. The comparison takes the same time wherever the difference is, and whichever
    key it is. This proves who made the token, not that it is still good: see `consume`.
    Raises ValueError for no key or one that is not 32 bytes: with an empty one, anybody's token would verify.
    """
    keys = _checked(key)
    secret, mac = _split(token)
    if code is not None and not _is_code(code):
        raise TokenError
    fits = [hmac.compare_digest(mac, _mac(secret, path=path, key=each, code=code)) for each in keys]
    if not any(fits):
        raise TokenError
    return secret


def consume(
    connection: Connection,
    token: str,
    *,
    action: str,
    key: Keys,
    code: str | None = None,
    schema: str = DEFAULT_SCHEMA,
) -> Account:
    """Verify a token, mark it consumed, and return whose it is. `key`: one, or all that may have signed it.

    `action` is the name of a row of `actions`; `schema` is where mailroom's functions are, if MAILROOM_SCHEMA says
    otherwise than its default; no search_path is needed.

    The mark is atomic: of any number of callers one succeeds. Where the action activates, that activates a provisioned
    account in the same transaction, which is the caller's to commit. Raises TokenError when the token does not verify,
    does not exist, has expired or was consumed before, when a newer one of its action was consumed, when its account
    has another address by now, or a status that its action has nothing to do with. Call it on POST, never on GET: link
    scanners fetch every address they see. Raises ValueError where there is no such action.

    Whatever the database raises is a TokenError too, from its cause: a deletion at the same moment, a time-out, a lost
    connection. Where others were in the way of a snapshot (REPEATABLE READ, SERIALIZABLE) it is a TokenConflictError,
    which says nothing of the token: try the whole transaction again. A transaction stays usable wherever PostgreSQL
    lets it; at SERIALIZABLE it may fail when it commits.

    A token stands few guesses at its code (`most_guesses` in SQL); when they are used up it is refused, also with the
    right code. What is not five digits is refused uncounted. A guess is counted before anything is compared, and
    committed on its own, whatever becomes of the caller's transaction: on the same connection if that has not begun at
    the server yet, else on one outside the engine's pool, made only for a token that exists and has guesses left. There
    it is given back after a TokenConflictError, which a wrong code never leads to.
    """
    _checked(key)  # before a guess is spent on it
    given: dict[str, Any] = {"secret": _split(token)[0], "action": action}
    with caller.refused(connection), caller.ahead(connection) as own:
        path, has_code = _find_action(connection if own is None else own, schema, action)
        if has_code and not (_is_code(code) and _count_guess(connection, own, schema, given["secret"])):
            raise TokenError
    verify(token, path=path, key=key, code=code if has_code else None)
    given |= {"code": code if has_code else None}
    return _consume(connection, schema, given, counted_beside=has_code and own is None)


async def consume_async(
    connection: "AsyncConnection",
    token: str,
    *,
    action: str,
    key: Keys,
    code: str | None = None,
    schema: str = DEFAULT_SCHEMA,
) -> Account:
    """Do what `consume` does, on a connection of an engine that SQLAlchemy's `create_async_engine` made."""
    return await connection.run_sync(consume, token, action=action, key=key, code=code, schema=schema)


def _find_action(connection: Connection, schema: str, action: str) -> tuple[str, bool]:
    """Return the path of an action, and whether it has a code."""
    with caller.refused(connection):
        row = _ask(connection, _ACTION, schema, {"action": action})
    if row is None:
        raise ValueError(f"there is no action {action!r}")
    return row.path, row.has_code


def _count_guess(connection: Connection, ahead: Connection | None, schema: str, secret: object) -> bool:
    """Count a guess at a token's code, for good; whether there was one left. `ahead` is as `caller.ahead` gives it."""
    given = {"secret": secret}
    with caller.refused(connection):
        found = _ask(connection if ahead is None else ahead, _GUESSES_LEFT, schema, given)
        if found is None or not found.left:
            return False
        if ahead is not None:
            counted = _ask(ahead, _COUNT_GUESS, schema, given)
            return counted is not None and bool(counted[0])
        with caller.beside(connection, role=found.role) as own:
            answer: bool | None = own.scalar(text(_COUNT_GUESS.format(schema=quoted_in_text(schema))), given)
        # False: the last guess was taken meanwhile, as the caller sees too; or nobody but the caller sees the token: it
        # is not committed, and its guesses may go its way. NULL: nothing was counted, and what the caller may roll
        # back must not stand for it.
        if answer is False:
            counted = _ask(connection, _COUNT_GUESS, schema, given)
            answer = counted is not None and counted[0]
    return bool(answer)


def _consume(connection: Connection, schema: str, given: Mapping[str, Any], *, counted_beside: bool) -> Account:
    """Mark a token consumed. `counted_beside`: a guess was counted, on another connection."""
    try:
        with caller.refused(connection):
            row = _ask(connection, _CONSUME, schema, given)
    except TokenConflictError:
        if counted_beside:
            _give_back(connection, schema, given["secret"])
        raise
    if row is None:
        raise TokenError
    return Account(row.account, row.reference, row.address)


def _give_back(connection: Connection, schema: str, secret: object) -> None:
    """Take back the count of a guess of which nobody has learnt anything. Where it cannot be, it is one."""
    with suppress(TokenError), caller.refused(connection):
        role = connection.scalar(_ROLE)
        with caller.beside(connection, role=role) as own:
            own.execute(text(_UNCOUNT_GUESS.format(schema=quoted_in_text(schema))), {"secret": secret})


def _ask(connection: Connection, call: str, schema: str, given: Mapping[str, object]) -> Row[Any] | None:
    """Call a function; one that fails takes nothing with it of a transaction that the caller has."""
    with (
        caller.unstreamed(connection),
        nullcontext() if caller.commits_by_itself(connection) else connection.begin_nested(),
    ):
        return connection.execute(text(call.format(schema=quoted_in_text(schema))), given).first()


def _checked(key: Keys) -> Sequence[bytes]:
    keys = [key] if isinstance(key, bytes) else key
    if not keys or any(len(each) != KEY_BYTES for each in keys):
        raise ValueError(_NO_KEY)
    return keys


def _is_code(code: str | None) -> TypeGuard[str]:
    return isinstance(code, str) and len(code) == 5 and code.isascii() and code.isdigit()


def _mac(secret: bytes, *, path: str, key: bytes, code: str | None) -> bytes:
    return hmac.digest(key, path.encode() + secret + (code or "").encode("ascii"), "sha256")


def _split(token: str) -> tuple[bytes, bytes]:
    raw = _decode(token)
    return raw[:SECRET_BYTES], raw[SECRET_BYTES:]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(token: str) -> bytes:
    """Undo `_encode`; whatever it could not have written is refused, since base64 lets several spellings mean one."""
    if not isinstance(token, str) or len(token) != SIGNED_CHARACTERS or not token.isascii():  # whatever a form has
        raise TokenError
    try:
        raw = base64.b64decode(token + "==", altchars=b"-_", validate=True)
    except ValueError:
        raise TokenError from None
    if _encode(raw) != token:
        raise TokenError
    return raw
