"""What is left to settle of a claim: all of it at once, or fewer batches at a time where the database refuses that."""

from collections.abc import Callable, Sequence
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from mailroom.db.engine import is_retryable
from mailroom.db.step_size import StepSize, is_cut_off
from mailroom.queue.settle import Judged

Settle = Callable[[Sequence[Judged]], tuple[set[UUID], bool]]


class Settlement:
    """Settles batches, so that neither their number nor one of them keeps the others from being settled.

    `settled` are those that it has settled so far, and `owned` the fences of those of them that were still ours; `due`
    says whether there may be more to claim; `was_too_much` whether the database has cut one off.
    """

    def __init__(self, closing: Sequence[Judged]) -> None:
        self._left = list(closing)
        self._step_size = StepSize(len(closing))
        self._hopeless: DBAPIError | None = None
        self.settled: list[Judged] = []
        self.owned: set[UUID] = set()
        self.due = self.was_too_much = False

    def run(self, settle: Settle) -> None:
        """Settle what is left. Raises DBAPIError with what was refused: run again, it goes on with less, or another.

        What is refused for its own values is left out, and raised in the end.
        """
        while self._left:
            some = self._left[: self._step_size.size]
            try:
                owned, due = settle(some)
            except DBAPIError as error:
                self._make_smaller(error)
                if is_retryable(error):
                    raise
                continue
            self._left = self._left[len(some) :]
            self._step_size.grow()
            self.settled += some
            self.owned |= owned
            self.due |= due
        if self._hopeless is not None:
            raise self._hopeless

    def _make_smaller(self, error: DBAPIError) -> None:
        self.was_too_much |= is_cut_off(error)
        if self._step_size.shrink():
            return
        first, *others = self._left
        if is_retryable(error):
            self._left = [*others, first]
        else:
            self._left, self._hopeless = others, error
