"""Roles that tests make on a server."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import make_conninfo

from tests.machine import missing
from tests.servers import Server

_numbers = itertools.count()


@contextmanager
def a_role(server: Server, what: str = "") -> Iterator[tuple[str, Callable[[str], str]]]:
    """A role that logs in, and what makes a URL its own; it is dropped with all that it made."""
    if server.embedded is None:
        missing("a server on which roles can be made")
    role = f"role_{os.getpid()}_{next(_numbers)}"
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' {what}")
    used: set[str] = set()

    def log_in(url: str) -> str:
        used.add(url)
        return make_conninfo(url, user=role, password=role)

    try:
        yield role, log_in
    finally:
        for url in used:
            with psycopg.connect(url, autocommit=True) as owner:
                owner.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
                owner.execute(f"DROP OWNED BY {role}")
        server.execute(f"DROP ROLE {role}")
