"""Starts the threads of a process."""

import threading
from collections.abc import Iterable

from mailroom.errors import MailroomError


def start_all(threads: Iterable[threading.Thread]) -> None:
    """Start them. Raises MailroomError if there is no room for one here: others may have begun."""
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        raise MailroomError(f"not all threads can be started: {error}; try a lower --concurrency") from error
