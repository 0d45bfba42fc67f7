"""Where the checkout is, a port that nobody answers, and what is done where this machine lacks something."""

import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import pytest

ROOT: Final = Path(__file__).parent.parent


@functools.cache
def closed_port() -> int:
    """A port on which nobody listens while this process lives: it is taken, so that nobody else can have it."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    port: int = taken.getsockname()[1]
    taken.detach()  # it stays open until the process ends
    return port


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port that nobody listens on and nobody else is given, until a server of the test's own takes it meanwhile.

    That one has to allow that it is used again (SO_REUSEADDR), as servers do.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def missing(what: str) -> NoReturn:
    """Skip a test that needs something this machine lacks; in CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI skips nothing")
    pytest.skip(f"needs {what}")
