"""A minute of the storm; `make storm` has ten."""

import pytest

from tests import clock, pgbouncer
from tests.machine import missing
from tests.servers import GIVEN
from tests.storm import run


@pytest.mark.early
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("feed", [False, True], ids=["deaf", "heard"])
def test_whatever_goes_wrong_no_mail_is_lost_and_none_is_doubled_off_the_record(*, feed: bool) -> None:
    """Where SES is heard, hardly a mail is doubled at all: without it, it is about one of sixteen.

    But for those that waited for their events when the clock of the database was put ahead.
    """
    if GIVEN:
        pytest.skip("a server that was given is not ours to crash")
    if not pgbouncer.PROGRAM.exists():
        missing(f"Debian's PgBouncer, {pgbouncer.PROGRAM}")
    if not clock.LIBRARY.exists():
        missing(f"Debian's faketime, {clock.LIBRARY}")
    books = run(seed=17, seconds=60, goal=6_000, say=print, feed=feed)
    print(*books.evidence, books, sep="\n")
    assert books.balance
    assert books.samples > 10
    assert books.outcomes["sent"] > 1_000
    assert not feed or books.twice - books.twice_by_clock < books.accepted / 100
