"""Where the checkout is, and what is done where this machine lacks something."""

import os
from pathlib import Path
from typing import Final, NoReturn

import pytest

ROOT: Final = Path(__file__).parent.parent


def missing(what: str) -> NoReturn:
    """Skip a test that needs something this machine lacks; in CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI skips nothing")
    pytest.skip(f"needs {what}")
