"""The window as who is on call sees it: two of the faults of `make on-call`, which end soonest, and its table."""

import pytest

from tests import on_call
from tests.on_call import Heard, Said, Seen

FAULTS = ("somebody pauses recoveries", "the database is down")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_the_first_sentence_names_what_is_wrong_and_then_that_it_is_over() -> None:
    chosen = tuple(trouble for trouble in on_call.TROUBLES if trouble.name in FAULTS)
    seen = list(on_call.run(chosen, tell=lambda _: None))
    assert [one.fault for one in seen] == list(FAULTS)
    assert [on_call.record(one) for one in seen if not one.is_whole] == []
    named = seen[0].named.said[-1].sentence
    assert named.startswith("Password recoveries do not leave: ")
    assert "`" not in named
    assert "mailroom resume password_recovery" in named


def test_the_first_that_is_said_of_a_fault_is_on_record_though_it_names_something_else() -> None:
    before = Said("fine", "Password recoveries leave within 10 ms; nothing waits; nothing needs you.")
    slower = Said("fine", "Password recoveries leave within 0.5 s; 1 password recovery waits; nothing needs you.", 2)
    late = Said("act", "Password recoveries are late: one has been due for 1 min; ask.", 70)
    named = Said("act", "SES does not answer: so ended 5 of 5 attempts of the last minutes; ask.", 130)
    over = Heard((named, Said("look", "Nothing waits.", 20)), fits=True)
    seen = Seen("SES does not answer", before, Heard((slower, late, named), fits=True), over)
    assert seen.first is late
    assert on_call.line(seen).split(" | ")[1:] == [late.sentence, "70 s", named.sentence, "130 s", "20 s |"]
    assert len(on_call.record(seen).splitlines()) == 1 + 1 + 3 + 2
    at_once = Seen("SES does not answer", before, Heard((named,), fits=True), Heard((named,), fits=False))
    assert on_call.line(at_once).split(" | ")[3:] == ["the same", "130 s", "never |"]
