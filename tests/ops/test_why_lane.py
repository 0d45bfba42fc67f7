"""Why a recovery is late now, told from a reading: the first cause of the chain that holds, and what was ruled out."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Bucket, Flight, Lane, Reading
from mailroom.ops.why import Why, why_lane
from tests.kinds import ACTIVATION, RECOVERY
from tests.ops.readings import (
    BULK,
    IMPORT,
    NORMAL,
    NOW,
    PROBED,
    QUARANTINE,
    account,
    ago,
    busy,
    lane,
    minute,
    paused,
    reading,
    worker,
)

LATE = lane(oldest=72)


def why(found: Reading, *minutes: Minute, of: Lane = LATE) -> Why:
    return why_lane(found, minutes, of, now=NOW)


def test_the_chain_is_looked_at_in_its_order_and_says_what_was_ruled_out() -> None:
    found = why(reading(lanes=(LATE,)))
    assert [step.name for step in found.chain] == ["worker", "pause", "permit", "senders", "claim", "due"]
    assert [step.holds for step in found.chain] == [False] * 5 + [True]
    assert found.chain[0].text == "1 worker of mailroom seen in the last 45 s"
    assert (found.code, found.since) == ("Unknown", timedelta(seconds=72))
    assert "doctor" in found.cure


def test_what_has_just_come_due_is_kept_by_nothing() -> None:
    found = why(reading(), of=lane(oldest=0.4))
    assert (found.code, found.cure) == ("Soon", "")
    assert found.text == "due for 0.4 s: nothing keeps it, it leaves with the next claim"


def test_no_worker_of_its_queue_comes_first() -> None:
    found = why(reading(workers=(), pauses=(paused("account"),)))
    assert (found.code, found.text) == ("NoWorker", "no worker takes the queue mailroom")
    assert "`mailroom worker`" in found.cure
    assert [step.holds for step in found.chain][:2] == [True, True]
    assert (found.chain[-1].holds, found.chain[-1].text) == (False, "due for 72 s"), "something keeps it"


def test_workers_of_other_queues_are_named_and_the_cure_names_the_queue() -> None:
    news = lane(queue="big news", oldest=72)
    found = why(reading(lanes=(news,)), of=news)
    assert found.text == "no worker takes the queue big news: those that run take mailroom"
    assert "`MAILROOM_QUEUE_NAME='big news' mailroom worker`" in found.cure


def test_a_worker_that_was_lost_is_named_with_when_it_was_seen() -> None:
    found = why(reading(170, seen=180))
    assert found.code == "NoWorker"
    assert found.text == "no worker takes the queue mailroom: the last, web1/4711, was seen 3 min ago"
    assert found.since == timedelta(minutes=3)
    assert "restart it" in found.cure


def test_a_worker_is_not_lost_between_two_of_its_turns() -> None:
    assert why(reading(14, seen=14 + 44)).code == "Unknown"
    assert why(reading(14, seen=14 + 46)).code == "NoWorker"


def test_where_nobody_counts_any_more_it_is_now_that_decides() -> None:
    assert why(reading(44, seen=46)).code == "Unknown"
    assert why(reading(46, seen=46)).code == "NoWorker"
    slow = reading(46, seen=60, seconds=0.4)
    assert why(slow).code == "Unknown"
    assert why(replace(slow, read_at=ago(71))).code == "NoWorker"


def test_where_counting_fails_the_workers_are_not_taken_for_lost() -> None:
    found = why(reading(300, seen=305, failed_at=ago(4), failure="QueryCanceled"))
    assert found.chain[0].holds is False


def test_a_sweep_from_cron_may_do_what_no_worker_does() -> None:
    found = why(reading(workers=()), minute(1))
    assert found.code == "NoWorker"
    assert "mails left 20 s ago all the same, perhaps by a sweep from cron" in found.text


@pytest.mark.parametrize(
    "scope", ["account", "configuration_set", "identity", RECOVERY, "queue:mailroom", "priority:0"]
)
def test_each_scope_that_covers_recoveries_holds_them_back(scope: str) -> None:
    found = why(reading(pauses=(paused(scope),)))
    assert (found.code, found.since) == ("Paused", timedelta(minutes=12))
    assert found.text == f"{scope} has been paused for 12 min (SES refuses it); it stays until somebody resumes it"
    assert f"`mailroom resume {scope}`" in found.cure


@pytest.mark.parametrize("scope", ["priority:2", "priority:1", ACTIVATION, "queue:news"])
def test_a_pause_that_does_not_concern_recoveries_is_ruled_out_by_name(scope: str) -> None:
    found = why(reading(pauses=(paused(scope),)))
    assert found.code != "Paused"
    assert found.chain[1].text == f"not paused: what is paused ({scope}) does not concern it"


def test_where_recoveries_have_a_sender_of_their_own_that_of_others_does_not_hold_them_back() -> None:
    found = why(reading(pauses=(paused("identity"),), own_senders=(RECOVERY,)))
    assert found.code != "Paused"


@pytest.mark.parametrize(("scope", "covers"), [("priority:0", True), ("priority:1", False), ("priority:2", False)])
def test_a_recovery_in_quarantine_is_paused_with_recoveries(scope: str, covers: bool) -> None:
    found = why(reading(pauses=(paused(scope),)), of=lane(RECOVERY, QUARANTINE, oldest=72))
    assert (found.code == "Paused") is covers


def test_of_several_pauses_that_which_a_person_has_to_end_comes_first() -> None:
    probed = paused("account", "SendingPausedException", since=900, **PROBED)
    found = why(reading(pauses=(probed, paused(RECOVERY, since=60))))
    assert found.text.startswith("password_recovery has been paused for 60 s")
    assert "; besides, account has been paused for 15 min (SendingPausedException, SES refuses it)" in found.text
    assert found.text.endswith("a probe ends it once the fault is over, the next in 20 s")
    assert "mailroom resume password_recovery" in found.cure


def test_the_quota_keeps_what_is_not_urgent_before_it_keeps_recoveries() -> None:
    nearly = reading(account=account(sent_last_24_hours=49_000, granted_since=200))
    assert why(nearly).code == "Unknown"
    normal = why(nearly, of=lane(ACTIVATION, NORMAL, oldest=72))
    assert normal.code == "QuotaReserve"
    assert normal.text == "of the quota of 50,000 mails in 24 hours 800 are left, kept for urgent mails"
    gone = why(reading(account=account(sent_last_24_hours=49_900, granted_since=100)))
    assert (gone.code, gone.text) == ("Quota", "the quota of 50,000 mails in 24 hours is used up")
    assert "ask AWS" in gone.cure


def test_a_quota_that_nobody_asked_for_lately_or_that_is_unlimited_keeps_nothing() -> None:
    gone = account(sent_last_24_hours=50_000)
    assert why(reading(account=replace(gone, seen_at=ago(700)))).code == "Unknown"
    assert why(reading(account=replace(gone, max_24_hour_send=-1))).code == "Unknown"


def test_in_the_midst_of_an_import_it_is_the_rate_and_how_many_go_before() -> None:
    found = why(reading(lanes=(IMPORT,), jobs_estimate=1_200_000), *busy(), of=IMPORT)
    assert found.code == "Rate"
    assert found.text == (
        "the rate is used: 12.6 of 12.6 mails a second: more than 10,000 mails before it take more than 13 min"
    )
    assert "nothing is broken" in found.cure


def test_a_rate_that_the_settings_limit_is_the_one_that_mails_wait_for() -> None:
    found = why_lane(reading(lanes=(IMPORT,)), busy(5.0), IMPORT, now=NOW, rate_limit=5.0)
    assert found.code == "Rate"
    assert found.text.startswith("the rate is used: 5.0 of 5.0 mails a second")
    assert "MAILROOM_SES_RATE" in found.cure
    unknown = account(seen_at=None, max_send_rate=None, max_24_hour_send=None)
    found = why_lane(reading(lanes=(IMPORT,), account=unknown), busy(5.0), IMPORT, now=NOW, rate_limit=5.0)
    assert "not known" not in found.text


def test_bulk_does_not_go_before_a_recovery() -> None:
    found = why(reading(lanes=(LATE, IMPORT)), *busy())
    assert found.chain[2].holds is False


def test_an_account_that_is_allowed_nothing_is_no_mistake_of_the_chain() -> None:
    found = why(reading(lanes=(IMPORT,), account=account(max_send_rate=0.0)), *busy(), of=IMPORT)
    assert found.code == "Rate"


def test_a_throttled_fleet_says_how_much_is_left() -> None:
    slow = {"mails": Bucket(1000, 0.34, 0.0)}
    many = lane(due=40, oldest=72)
    found = why(reading(lanes=(many,), buckets=slow), *busy(4), of=many)
    assert found.code == "Throttled"
    assert found.text == "SES throttles: the rate is cut to 34%; 4.0 of 4.3 mails a second are used"


def test_an_account_that_nobody_may_ask_for_sends_one_mail_a_second() -> None:
    many = lane(due=40, oldest=72)
    unknown = reading(lanes=(many,), account=account(seen_at=None, max_send_rate=None, max_24_hour_send=None))
    found = why(unknown, *busy(1), of=many)
    assert found.code == "Rate"
    assert "the account is not known" in found.text
    assert "ses:GetAccount" in found.cure


def test_senders_that_are_all_in_calls_are_the_reason_and_how_long_the_oldest_has_taken() -> None:
    workers = (worker(busy=4), worker(busy=2, senders=2, name="web2/1"), worker(300, name="gone/1", senders=8))
    found = why(reading(workers=workers, flight=Flight(6, 60, 0, 0.0, 12.0)))
    assert found.code == "Senders"
    assert found.text == "all senders are in calls: 6 of 6 senders busy; the oldest call has taken 12 s"
    assert "--concurrency" in found.cure


@pytest.mark.parametrize("code", ["OldTransaction", "DeadRows", "QueueUnread"])
def test_slow_claims_come_last_with_their_cure(code: str) -> None:
    found = why(reading(warnings={code: "session 7 is old", "FeedSilent": "no"}))
    assert (found.code, found.text) == (code, "claims may be slow: session 7 is old")
    assert found.cure


def test_where_nothing_is_due_it_says_what_waits() -> None:
    assert why(reading(), of=lane(due=0)).text == "no password recoveries wait"
    held = why(reading(), of=lane(due=0, held=1, later=2))
    assert (held.code, held.text) == ("Held", "no password recoveries are due: 1 is held")
    later = why(reading(), of=lane(ACTIVATION, BULK, due=0, later=2))
    assert (later.code, later.text) == ("Later", "no bulk activations are due: 2 wait for another try")


def test_with_an_old_reading_what_was_due_then_has_been_due_longer() -> None:
    found = why(reading(300, seen=305, failed_at=ago(4)), of=lane(oldest=1))
    assert found.since == timedelta(seconds=301)
