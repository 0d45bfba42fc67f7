"""The window as who is on call sees it, with two of the faults of `make on-call`: they end soonest."""

import pytest

from tests import on_call

FAULTS = ("somebody pauses recoveries", "the database is down")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_the_first_sentence_names_what_is_wrong_and_then_that_it_is_over() -> None:
    chosen = tuple(trouble for trouble in on_call.TROUBLES if trouble.name in FAULTS)
    seen = list(on_call.run(chosen, tell=lambda _: None))
    assert [one.fault for one in seen] == list(FAULTS)
    assert [one for one in seen if one.seconds is None or one.over is None] == []
    assert seen[0].sentence.startswith("Password recoveries do not leave: ")
    assert "`" not in seen[0].sentence
    assert "mailroom resume password_recovery" in seen[0].sentence
