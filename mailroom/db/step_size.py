"""How much one statement does: less after it has failed, so that what is too much at once is done in the end."""

from collections.abc import Callable
from typing import TypeVar

from psycopg.errors import QueryCanceled
from sqlalchemy.exc import DBAPIError

Done = TypeVar("Done")


class StepSize:
    """Begins with the most, is halved by each failure, and doubled by each success."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = most

    @property
    def is_whole(self) -> bool:
        """Whether it is the most."""
        return self.size == self._most

    def shrink(self) -> bool:
        """Halve it; False if there is nothing smaller to try."""
        smaller = self.size > 1
        self.size = max(1, self.size // 2)
        return smaller

    def restart(self) -> None:
        """Begin with one."""
        self.size = 1

    def grow(self) -> None:
        """Double it, up to the most."""
        self.size = min(self._most, 2 * self.size)

    def take(self, act: Callable[[int], Done], *, from_one: bool = False) -> Done:
        """Do so much, or less at a time as long as the database ends it for taking too long; raises DBAPIError.

        `from_one`: begin with one after a failure, where each may be a wait for somebody, and take as long as the last.
        """
        while True:
            try:
                done = act(self.size)
            except DBAPIError as error:
                if not (is_cut_off(error) and self.shrink()):
                    raise
                if from_one:
                    self.restart()
            else:
                self.grow()
                return done


def is_cut_off(error: DBAPIError) -> bool:
    """Whether the database has ended a statement, mostly for taking longer than statement_timeout."""
    return isinstance(error.orig, QueryCanceled)
