"""With all rules nothing breaks: small worlds to the end, and larger ones as far as a minute goes."""

import pytest

from tests.model.search import search
from tests.model.worlds import LARGE, SMALL


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_nothing_breaks_in_a_small_world(name: str) -> None:
    found = search(SMALL[name], most=100_000)
    print(name, found)
    assert found.complete
    assert found.broken == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_nothing_breaks_in_the_first_states_of_a_larger_one(name: str) -> None:
    found = search(LARGE[name], most=30_000, exact=False)
    print(name, found)
    assert found.broken == ""


def test_a_search_says_how_it_got_there() -> None:
    found = search(SMALL["hold"], watch=frozenset())
    assert str(found).endswith("nothing broken")
