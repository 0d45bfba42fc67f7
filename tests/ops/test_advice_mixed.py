"""What the first sentence says where some mails leave and others do not, or none is due: nothing that is not so."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mailroom.ops import causes
from mailroom.ops.advice import Advice, advise
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Reading
from mailroom.ops.why import why_lane
from tests.kinds import ACTIVATION
from tests.ops.readings import BULK, IMPORT, NORMAL, NOW, account, ago, busy, lane, minute, paused, reading, worker

QUICK = (minute(1), minute(4))
BULK_STANDS = paused("priority:2")


def told(found: Reading, *minutes: Minute, rate_limit: float | None = None) -> Advice:
    return advise(found, minutes, now=NOW, rate_limit=rate_limit)


def test_what_is_paused_is_not_gone_with_the_rest() -> None:
    lanes = (lane(ACTIVATION, BULK, 5_000, 90), lane(ACTIVATION, NORMAL, 2_000, 20))
    found = told(reading(lanes=lanes, pauses=(BULK_STANDS,)), *QUICK)
    assert found.state == "look"
    assert (
        "7,000 bulk activations and activations wait, gone in about 3 min, but for 5,000 bulk activations;"
    ) in found.sentence.replace("activations and bulk activations", "bulk activations and activations")


def test_what_waits_for_a_later_try_is_not_nothing() -> None:
    assert (
        "; nothing is due, and 500 mails wait for a later try; "
        in told(reading(lanes=(lane(ACTIVATION, NORMAL, 0, later=500),)), *QUICK).sentence
    )
    one = told(reading(lanes=(lane(ACTIVATION, NORMAL, 0, later=1),)), *QUICK)
    assert "; nothing is due, and 1 mail waits for a later try; " in one.sentence
    many = told(reading(lanes=(lane(ACTIVATION, NORMAL, 0, later=10_001), lane(due=0, later=3))), *QUICK)
    assert "; nothing is due, and more than 10,000 mails wait for a later try; " in many.sentence


def test_what_is_due_is_counted_without_what_is_not() -> None:
    lanes = (lane(ACTIVATION, NORMAL, 0, later=9_000, held=0), IMPORT)
    found = told(reading(lanes=lanes, jobs_estimate=309_000, account=account(max_24_hour_send=-1.0)), *busy(), *QUICK)
    assert "; about 300,000 bulk activations wait, gone in about 6 h 37 min; " in found.sentence


@pytest.mark.parametrize("outcome", ["suppressed", "cancelled", "expired", "late"])
def test_mails_that_were_asked_for_and_not_sent_were_asked_for(outcome: str) -> None:
    never_called = replace(minute(2, 50, outcome=outcome), waits=(0,) * len(minute().waits))
    assert told(reading(), never_called).sentence.startswith("No mail has left in the last ten minutes; ")


def test_mails_that_ses_put_off_have_not_left() -> None:
    assert told(reading(), minute(2, 2, outcome="deferred")).sentence.startswith("No mail has left in the last ten ")


def test_a_pause_that_began_by_a_clock_that_was_ahead_is_not_a_moment_old() -> None:
    ahead = replace(paused("account"), opened_at=NOW + timedelta(hours=2))
    [need, *_] = told(reading(pauses=(ahead,))).needs
    assert "account has been paused for 2 h" in need.what
    assert "for 2 h" in causes.say_pause(ahead, now=NOW)


def test_the_own_rate_is_what_binds_where_ses_sets_no_limit() -> None:
    free = reading(lanes=(IMPORT,), account=account(max_send_rate=-1.0))
    assert "raise MAILROOM_SES_RATE" in why_lane(free, busy(5.0), IMPORT, now=NOW, rate_limit=5.0).cure
    none = reading(lanes=(IMPORT,), account=account(max_send_rate=0.0))
    assert "MAILROOM_SES_RATE" not in why_lane(none, busy(5.0), IMPORT, now=NOW, rate_limit=5.0).cure


def test_a_rate_that_is_set_is_not_advised_again() -> None:
    old = reading(account=account(seen_at=ago(900)))
    [need] = told(old, *QUICK, rate_limit=5.0).needs
    assert need.code == "AccountOld"
    assert "ses:GetAccount" in need.cure
    assert "MAILROOM_SES_RATE" not in need.cure


def test_more_than_was_counted_is_not_told_as_a_number() -> None:
    many = lane(ACTIVATION, BULK, 0, later=10_001)
    found = why_lane(reading(lanes=(many,)), (), many, now=NOW)
    assert found.text == "no bulk activations are due: more than 10,000 wait for another try"


def test_where_cron_sweeps_a_worker_of_another_queue_that_is_gone_stops_nothing() -> None:
    """Somebody tried a queue yesterday: for a day its worker is on record."""
    cron = worker(60, name="web1/sweep/mailroom", senders=0, listening=None, feeding=False)
    found = told(reading(60, workers=(worker(60_000, name="a/1", queue="a-test"), cron)))
    assert [(need.code, need.state) for need in found.needs] == [("NoWorker", "look")]
    assert found.needs[0].what == "mails leave by sweeps alone: no worker takes the queue mailroom"


def test_a_queue_that_is_deserted_is_not_all_mail_where_cron_sweeps_another() -> None:
    cron = worker(60, name="web1/sweep/mailroom", senders=0, listening=None, feeding=False)
    found = told(reading(60, workers=(cron,), lanes=(lane(ACTIVATION, NORMAL, 4, 90, queue="news"),)))
    assert found.needs[0].what == "activations do not leave: no worker takes the queue news"


def test_what_is_paused_for_days_does_not_say_that_nothing_leaves() -> None:
    """A recovery that has just come is not late because nobody asked for one in the ten minutes before."""
    lanes = (lane(oldest=0.4), lane(ACTIVATION, BULK, 5_000, 200_000))
    found = told(reading(lanes=lanes, pauses=(BULK_STANDS,)))
    assert "nothing leaves at the moment" not in found.sentence
