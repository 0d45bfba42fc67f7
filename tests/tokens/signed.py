"""Tokens as they are mailed, and as an application consumes them."""

import string

import psycopg
from sqlalchemy import Connection

from mailroom import tokens
from mailroom.job import Action
from tests.kinds import KINDS, sign
from tests.world import KEY, rows

ALPHABET = string.ascii_letters + string.digits + "-_"
SECRET = bytes(range(32))
OTHER_KEY = bytes(32)


def other(character: str) -> str:
    return ALPHABET[(ALPHABET.index(character) + 1) % len(ALPHABET)]


def signed(connection: Connection, token: int, *, code: str | None = None) -> tuple[str, Action, str]:
    """Return what the mail of a token holds: the signed token, its action and its code."""
    [row] = rows(connection, "SELECT action, secret, code FROM tokens WHERE id = :token", token=token)
    action = KINDS.actions[row.action]
    return sign(row.secret, action=action, key=KEY, code=code or row.code), action, code or row.code


def consume(connection: Connection, mailed: tuple[str, Action, str]) -> int:
    token, action, code = mailed
    return tokens.consume(connection, token, action=action, key=KEY, code=code).id


def activation_of(connection: Connection, account: int) -> int:
    [row] = rows(
        connection, "SELECT id FROM tokens WHERE account = :account AND action = 'activation'", account=account
    )
    return int(row.id)


def wait_until_blocked(watcher: psycopg.Connection, process: int | None = None) -> None:
    """Return once a server process of the database waits for a lock, asking PostgreSQL again until it says so."""
    watcher.execute("SET statement_timeout = '30s'")
    blocked = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    which = "" if process is None else f" AND pid = {process}"
    wait = f"WHILE NOT EXISTS ({blocked}{which}) LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP"
    watcher.execute(f"DO $$ BEGIN {wait}; END $$".encode())
