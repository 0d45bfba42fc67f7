"""The clock of leases and permits on this machine: it goes on while that is suspended, as the database's does."""

import time
from typing import Final

# Linux alone has it.
_GOES_ON: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def seconds() -> float:
    """Return monotonic seconds, and with them those for which the machine was suspended since this process began."""
    if _GOES_ON is None:
        return time.monotonic()
    return time.clock_gettime(_GOES_ON) - _AHEAD


# As long as nothing is suspended it says what the monotonic clock says.
_AHEAD: Final = 0.0 if _GOES_ON is None else time.clock_gettime(_GOES_ON) - time.monotonic()
