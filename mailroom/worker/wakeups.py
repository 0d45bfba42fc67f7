"""What wakes the thread that looks for work, and when it looks again if nothing does."""

import queue as mailbox
import time
from datetime import timedelta
from typing import Final

# After work a look comes in a while, and then later and later: a commit may have seen a queue that was not yet empty,
# and so not have notified, and have come too late for who settled last to see it.
FIRST_LOOK: Final = timedelta(seconds=1)
# While the pages of the queue are looked at, or a clock is repaired, some at a time; and where many notify.
NEXT_STEP: Final = timedelta(milliseconds=100)
# In a fleet of a few workers all but one of them claim in vain whenever a job comes.
MAX_VAIN: Final = 20
WORKED: Final = "worked"
WAITS: Final = "waits"


class Notified:
    """Whether a job was notified of since the last look began, and whether to claim at once for such a notification.

    Who may connect to the database may notify of jobs that are not there, without end. After so many claims that found
    nothing, with none between that did, a look tells first whether there is anything. Safe between threads.
    """

    def __init__(self) -> None:
        self.came = False
        self._vain = 0

    def is_worth_a_claim(self) -> bool:
        """Take note of one; whether it is."""
        self.came = True
        return self._vain < MAX_VAIN

    def claimed(self, *, found: bool) -> None:
        """Take note that a claim has found something, or nothing."""
        self._vain = 0 if found else self._vain + 1


class Wakeups:
    """A mailbox. SimpleQueue, since a signal handler may put into it at any moment.

    Who waits need not be woken for each mail: once it knows that a sender has worked, it looks in a while, and what is
    put of that until then tells it nothing.
    """

    def __init__(self) -> None:
        self._came: mailbox.SimpleQueue[str] = mailbox.SimpleQueue()
        self._knows_work = False

    def put(self, why: str) -> None:
        """Ask for a look: soon, where a sender has WORKED or a job WAITS, and at once for any other reason.

        Not at once after the last look, though: who may connect to the database may notify without end.
        """
        if why != WORKED or not self._knows_work:
            self._came.put(why)

    def wait(self, ends: float) -> bool:
        """Wait, until a monotonic moment, for what asks for a look; whether a sender has worked.

        That alone, and a job that may have to wait, ask for one in a while: one for all of them.
        """
        worked, began = False, time.monotonic()
        while (wait := ends - time.monotonic()) > 0:
            try:
                wakeups = {self._came.get(timeout=wait)}
            except mailbox.Empty:
                break
            while not self._came.empty():
                wakeups.add(self._came.get())
            worked = self._knows_work = worked or WORKED in wakeups
            if wakeups - {WORKED, WAITS}:
                ends = min(ends, began + NEXT_STEP.total_seconds())
                continue
            soon = NEXT_STEP if WAITS in wakeups else FIRST_LOOK
            ends = min(ends, time.monotonic() + soon.total_seconds())
        self._knows_work = False  # what is put from now on may be of work that the next look does not see
        return worked
