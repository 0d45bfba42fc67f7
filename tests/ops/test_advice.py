"""The first sentence, and what needs a person: the worst first, with a cure, and nothing that is not so."""

from dataclasses import replace
from typing import Any

import pytest

from mailroom.ops.advice import Advice, advise, unreached
from mailroom.ops.minutes import Minute
from mailroom.ops.reading import Bucket, Flight, Reading
from tests.kinds import ACTIVATION, RECOVERY
from tests.ops.readings import (
    BULK,
    IMPORT,
    NORMAL,
    NOW,
    PROBED,
    account,
    ago,
    busy,
    lane,
    minute,
    paused,
    rates,
    reading,
    worker,
)

QUICK = [minute(1), minute(4)]


def told(found: Reading | None, *minutes: Minute) -> Advice:
    return advise(found, minutes, now=NOW)


def codes(advice: Advice) -> list[tuple[str, str]]:
    return [(need.code, need.state) for need in advice.needs]


# Fine


def test_where_all_is_well_it_says_how_fast_recoveries_leave() -> None:
    found = told(reading(), *QUICK)
    assert found == Advice("Password recoveries leave within 10 ms; nothing waits; nothing needs you.", "fine", ())


def test_where_nothing_was_asked_for_it_says_so() -> None:
    assert (
        told(reading()).sentence == "No mail was asked for in the last ten minutes; nothing waits; nothing needs you."
    )


def test_the_speed_is_that_of_nineteen_mails_in_twenty() -> None:
    slow = minute(2, 1, waited=40)
    assert told(reading(), minute(1, 19), slow).sentence.startswith("Password recoveries leave within 10 ms")
    assert told(reading(), minute(1, 18), slow).sentence.startswith("Password recoveries leave within 60 s")
    late = minute(1, waited=90_000)
    assert told(reading(), late).sentence.startswith("Password recoveries leave within more than a day")
    assert told(reading(), minute(11)).sentence.startswith("No mail was asked for")


def test_the_speed_is_that_of_the_most_urgent_mails_there_were() -> None:
    normal = minute(1, action=ACTIVATION, priority=NORMAL, waited=2)
    assert told(reading(), normal).sentence.startswith("Activations leave within 2.5 s")
    assert told(reading(), normal, minute(1)).sentence.startswith("Password recoveries leave within 10 ms")
    links = minute(1, action="magic_link", waited=0.2)
    assert told(reading(), links).sentence.startswith("Magic links leave within 0.2 s")
    assert told(reading(), links, minute(1)).sentence.startswith("Urgent mails leave within 0.2 s")


def test_an_import_is_told_with_when_it_is_gone_and_needs_nobody() -> None:
    found = told(
        reading(lanes=(IMPORT,), jobs_estimate=300_000, account=account(max_24_hour_send=-1.0)), *busy(), *QUICK
    )
    assert found.state == "fine"
    assert found.sentence == (
        "Password recoveries leave within 10 ms; about 300,000 bulk activations wait, gone in about 6 h 37 min;"
        " nothing needs you."
    )


def test_an_import_of_which_nothing_leaves_has_no_end() -> None:
    found = told(reading(lanes=(IMPORT,), jobs_estimate=300_000))
    assert "about 300,000 bulk activations wait, and nothing leaves at the moment" in found.sentence


@pytest.mark.parametrize(("waited", "is_told"), [(14, True), (16, False)])
def test_no_end_is_told_of_recoveries_that_have_not_left_for_a_while(waited: float, is_told: bool) -> None:
    """They leave at once where all is well: until the minute is counted nobody knows that SES takes none."""
    found = told(reading(lanes=(lane(due=137, oldest=waited),)), minute(1), *QUICK)
    assert found.state != "act"
    assert "; 137 password recoveries wait" in found.sentence
    assert ("gone in about" in found.sentence) is is_told


def test_what_waits_was_asked_for() -> None:
    assert told(reading(lanes=(lane(due=3),))).sentence.startswith("No mail has left in the last ten minutes; 3 ")
    assert told(reading()).sentence.startswith("No mail was asked for in the last ten minutes; nothing waits")


def test_what_is_gone_at_once_has_no_end() -> None:
    assert "; 1 password recovery waits; " in told(reading(lanes=(lane(),)), *QUICK).sentence


def test_the_quota_is_told_where_it_ends_before_the_backlog_does() -> None:
    found = told(reading(lanes=(IMPORT,), jobs_estimate=300_000), *busy(), *QUICK)
    assert "gone in about 6 h 37 min, but the day's quota ends in about 61 min" in found.sentence


# Nobody counts, nobody works


def test_without_a_reading_nothing_is_known() -> None:
    found = told(None)
    assert (found.state, codes(found)) == ("act", [("NoReading", "act")])
    assert found.sentence.startswith("Nothing is known: nobody has counted yet; start one: `mailroom worker`")
    assert "cron" in found.needs[0].cure


def test_a_fleet_of_one_that_is_lost_is_told_with_what_waits() -> None:
    found = told(reading(170, seen=180, lanes=(lane(due=3, oldest=2),)))
    assert codes(found)[0] == ("NoWorker", "act")
    assert found.sentence.startswith("No mail leaves: no worker takes the queue mailroom; start one: `mailroom worker`")
    assert found.needs[0].why.startswith("the last, web1/4711, was seen 3 min ago; due: 3 password recoveries")


def test_where_nobody_works_and_nothing_waits_the_next_mail_is_what_matters() -> None:
    found = told(reading(workers=()))
    assert (found.state, codes(found)) == ("act", [("NoWorker", "act")])
    assert found.sentence.startswith("The next mail will not leave: no worker takes the queue mailroom")


def test_where_cron_sweeps_no_worker_is_for_the_day() -> None:
    found = told(reading(workers=()), minute(1))
    assert codes(found) == [("NoWorker", "look")]
    assert "mails leave by sweeps alone" in found.sentence
    assert codes(told(reading(workers=(), lanes=(lane(oldest=40),)), minute(1))) == [("NoWorker", "look")]
    assert codes(told(reading(workers=(), lanes=(lane(oldest=72),)), minute(1))) == [("NoWorker", "act")]


def test_a_sweep_from_cron_is_no_worker_and_yet_mails_leave() -> None:
    """Also in a night without a mail."""
    cron = worker(60, name="web1/sweep/mailroom", senders=0, listening=None, feeding=False)
    found = told(reading(60, workers=(cron,)))
    assert codes(found) == [("NoWorker", "look")]
    assert found.needs[0].what == "mails leave by sweeps alone: no worker takes the queue mailroom"
    assert found.needs[0].why.startswith("a sweep from cron ended 60 s ago")
    stuck = told(reading(60, workers=(cron,), lanes=(lane(oldest=72),)))
    assert codes(stuck) == [("NoWorker", "act")]
    assert stuck.needs[0].what == "no mail leaves: no worker takes the queue mailroom", "it was not able to send"
    old = replace(cron, seen_at=ago(900))
    assert codes(told(reading(900, workers=(old,)))) == [("NoWorker", "act")]
    beside = told(reading(workers=(worker(), old)), *QUICK)
    assert codes(beside) == [], "it has not gone away without a word"


def test_a_queue_that_nobody_takes_is_named_and_the_others_go_on() -> None:
    found = told(reading(lanes=(lane(), lane(ACTIVATION, NORMAL, 40, 90, queue="news"))), *QUICK)
    assert codes(found) == [("NoWorker", "act")]
    assert found.sentence.startswith("Activations do not leave: no worker takes the queue news; start one")


def test_one_of_several_workers_that_is_lost_is_news_for_a_while() -> None:
    found = told(reading(workers=(worker(), worker(180, name="web2/7"))), *QUICK)
    assert codes(found) == [("WorkerLost", "look")]
    assert found.needs[0].what == "1 worker went away without a word: web2/7"
    assert codes(told(reading(workers=(worker(), worker(1_000, name="web2/7"))), *QUICK)) == []


def test_where_counting_fails_it_says_how_old_the_numbers_are() -> None:
    found = told(reading(300, seen=305, failed_at=ago(4), failure="QueryCanceled"))
    assert codes(found) == [("NoReading", "act")]
    assert found.sentence.startswith("These numbers are 5 min old: counting fails; see the log of the workers")
    assert found.needs[0].why == "QueryCanceled"


def test_a_database_that_does_not_answer_comes_with_its_cure() -> None:
    found = unreached("AdminShutdown")
    assert (found.state, codes(found)) == ("act", [("NoDatabase", "act")])
    assert found.sentence == (
        "The database does not answer (AdminShutdown); see whether PostgreSQL runs and can be reached from here."
    )
    assert "`mailroom doctor` says what it meets" in found.needs[0].cure


# Paused


def test_a_pause_of_the_account_stops_all_mail_and_comes_with_its_cure() -> None:
    stopped = paused("account", "SendingPausedException", **PROBED)
    found = told(reading(lanes=(lane(due=12, oldest=720),), pauses=(stopped,)))
    assert codes(found) == [("Paused", "act")]
    assert found.sentence == (
        "No mail leaves: account has been paused for 12 min (SendingPausedException);"
        " aws sesv2 put-account-sending-attributes --sending-enabled."
    )
    assert "a probe ends it once the fault is over, the next in 20 s; due: 12 password recoveries" in found.needs[0].why


def test_a_pause_that_a_probe_may_end_is_at_first_for_mailroom() -> None:
    found = told(reading(pauses=(paused("account", "SendingPausedException", since=20, **PROBED),)))
    assert codes(found) == [("Paused", "look")]


def test_a_pause_that_keeps_recoveries_is_for_a_person_at_once() -> None:
    stopped = paused("account", "AccountSuspendedException", since=9, **PROBED)
    found = told(reading(lanes=(lane(due=12, oldest=8),), pauses=(stopped,)), *QUICK)
    assert codes(found) == [("Paused", "act")]
    assert found.sentence.startswith("No mail leaves: account has been paused for 9 s (AccountSuspendedException); ")


def test_a_pause_of_bulk_by_hand_is_for_the_day_and_recoveries_leave() -> None:
    found = told(reading(lanes=(lane(ACTIVATION, BULK, 500, 90),), pauses=(paused("priority:2"),)), *QUICK)
    assert codes(found) == [("Paused", "look")]
    assert found.sentence == (
        "Password recoveries leave within 10 ms; 500 bulk activations wait; this can wait for the day:"
        " bulk activations do not leave: priority:2 has been paused for 12 min (SES refuses it)."
    )


@pytest.mark.parametrize(
    ("scope", "code", "state"),
    [
        ("account", "ByHand", "act"),
        ("queue:mailroom", "ByHand", "act"),
        ("priority:0", "ByHand", "act"),
        (RECOVERY, "ByHand", "act"),
        (ACTIVATION, "ByHand", "look"),
        (ACTIVATION, "RenderingFailure", "act"),
        ("priority:1", "BounceRate", "act"),
        ("priority:2", "BounceRate", "look"),
    ],
)
def test_a_pause_needs_somebody_now_where_somebody_waits_for_the_mail(scope: str, code: str, state: str) -> None:
    stopped = replace(paused(scope, code), by_hand=not code.endswith("Rate"))
    assert codes(told(reading(pauses=(stopped,)), *QUICK)) == [("Paused", state)]


def test_a_pause_that_keeps_nothing_yet_is_told_after_mails_that_are_late() -> None:
    late = reading(lanes=(lane(oldest=90),), pauses=(paused("queue:news"),))
    assert codes(told(late, *QUICK)) == [("OldJob0", "act"), ("Paused", "act")]
    kept = replace(late, pauses=(paused("queue:mailroom"),))
    assert codes(told(kept, *QUICK)) == [("Paused", "act")]


def test_what_waits_in_several_queues_is_counted_together() -> None:
    found = told(reading(lanes=(lane(due=2), lane(due=3, queue="news")), pauses=(paused("account"),)), *QUICK)
    assert "due: 5 password recoveries; the oldest for" in next(
        need.why for need in found.needs if need.code == "Paused"
    )


# Quota, account, rates


@pytest.mark.parametrize(
    ("sent", "code", "state", "words"),
    [
        (38_000, None, "fine", ""),
        (41_000, "QuotaNear", "look", "82% of the day's quota is used"),
        (47_990, "QuotaReserve", "act", "Only urgent mails leave: the day's quota is used up but for 2,000"),
        (50_000, "Quota", "act", "No mail leaves: the day's quota is used up; wait, or ask AWS for a higher quota"),
    ],
)
def test_the_quota_is_told_before_it_ends(sent: float, code: str | None, state: str, words: str) -> None:
    found = told(reading(account=account(sent_last_24_hours=float(sent))), *QUICK)
    assert (found.state, codes(found)) == (state, [(code, state)] if code else [])
    assert words in found.sentence


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({"sending_enabled": False}, "SendingOff", "No mail leaves: sending is switched off at SES"),
        ({"max_send_rate": 0.0}, "NoRate", "Hardly a mail leaves: SES allows the account 0 mails a second"),
        ({"max_24_hour_send": 0.0}, "Quota", "No mail leaves: the day's quota is used up"),
        ({"enforcement": "SHUTDOWN"}, "Suspended", "No mail leaves: AWS has suspended the account"),
        ({"enforcement": "PROBATION"}, "UnderReview", "AWS has the account under review (PROBATION)"),
    ],
)
def test_what_aws_says_of_the_account_needs_somebody(said: dict[str, Any], code: str, words: str) -> None:
    found = told(reading(account=account(**said)), *QUICK)
    assert codes(found) == [(code, "act")]
    assert found.sentence.startswith(words)


@pytest.mark.parametrize(("rate", "state"), [(0.03, "look"), (0.05, "act")])
def test_bounces_need_somebody_where_aws_reviews_an_account(rate: float, state: str) -> None:
    warned = {"BounceRate": "3.00% of 5000 mails bounced for good: AWS reviews an account at 5.0%"}
    found = told(reading(warnings=warned, feedback=rates(rate)), *QUICK)
    assert codes(found) == [("BounceRate", state)]
    assert (found.needs[0].what, found.needs[0].why) == tuple(warned["BounceRate"].split(": "))


# Late


def test_mails_that_are_late_for_the_rate_of_the_settings_are_told_so() -> None:
    many = lane(ACTIVATION, NORMAL, 10_001, 7200)
    [need] = advise(reading(lanes=(many,)), busy(5.0), now=NOW, rate_limit=5.0).needs
    assert "5.0 of 5.0 mails a second" in need.why


def test_a_late_recovery_is_told_with_the_cause_of_the_chain() -> None:
    stuck = reading(lanes=(lane(oldest=72),), workers=(worker(busy=4),), warnings={"OldJob0": "the oldest …"})
    found = told(stuck, *QUICK)
    assert codes(found) == [("OldJob0", "act")]
    assert found.sentence.startswith("Password recoveries are late: one has been due for 72 s; start another worker")
    assert found.needs[0].why == "all senders are in calls: 4 of 4 senders busy"


def test_a_slow_recovery_is_told_before_it_is_late_and_a_days_import_is_not() -> None:
    found = told(reading(lanes=(lane(oldest=20), lane(ACTIVATION, BULK, 900, 80_000))), *QUICK)
    assert codes(found) == [("OldJob0", "look")]
    late = told(reading(lanes=(lane(ACTIVATION, BULK, 900, 90_000),)), *QUICK)
    assert codes(late) == [("OldJob2", "look")]


def test_what_is_late_for_a_cause_that_is_told_is_not_told_twice() -> None:
    found = told(reading(lanes=(lane(oldest=720),), pauses=(paused("account"),), warnings={"OldJob0": "…"}))
    assert codes(found) == [("Paused", "act")]


# Others


def test_warnings_come_with_their_cure() -> None:
    warned = {
        "OldTransaction": "session 7 has kept dead rows from being vacuumed for 1000 s",
        "OverdueBatch": "a batch is 61 s past its lease: nobody sweeps",
        "FeedSilent": "no event for mails sent more than 10 minutes ago; the newest came: never",
    }
    found = told(reading(warnings=warned), *QUICK)
    assert codes(found) == [("OverdueBatch", "act"), ("OldTransaction", "look"), ("FeedSilent", "look")]
    assert "pg_terminate_backend" in found.needs[1].cure


@pytest.mark.parametrize(
    ("other", "code", "words"),
    [
        ({"lanes": (lane(due=0, held=3),)}, "Held", "3 mails are held until a person decides"),
        ({"outcomes": {"hour": {"failed": 2}, "day": {}}}, "Failed", "2 mails failed for good in the last hour"),
        ({"buckets": {"mails": Bucket(1, 0.34, 0.0)}}, "Throttled", "SES throttles: the fleet sends at 34%"),
        ({"workers": (worker(listening=False),)}, "ListenLost", "1 worker does not hear of new mails"),
        ({"account": account(seen_at=ago(900))}, "AccountOld", "SES has not been asked for the quota for 15 min"),
    ],
)
def test_what_can_wait_is_told_after_how_mail_leaves(other: dict[str, Any], code: str, words: str) -> None:
    found = told(reading(**other), *QUICK)
    assert codes(found) == [(code, "look")]
    assert found.sentence.startswith("Password recoveries leave within 10 ms; ")
    assert f"this can wait for the day: {words}" in found.sentence


def test_unconfirmed_mails_of_the_last_minutes_are_told_with_their_codes() -> None:
    timeouts = minute(2, 3, outcome="unconfirmed", code="ReadTimeout")
    found = told(reading(unconfirmed_day=9), *QUICK, timeouts)
    assert codes(found) == [("Unconfirmed", "look")]
    assert found.needs[0].why == "ReadTimeout"
    assert codes(told(reading(unconfirmed_day=9), *QUICK, replace(timeouts, at=ago(1_000)))) == []


@pytest.mark.parametrize(
    ("sent", "unanswered", "state"), [(0, 3, "act"), (30, 40, "act"), (30, 20, "look"), (0, 2, "look")]
)
def test_ses_that_does_not_answer_needs_somebody(sent: int, unanswered: int, state: str) -> None:
    """A call or two without an answer is an accident, and so are a few among many."""
    found = told(reading(), minute(2, sent), minute(1, unanswered, outcome="unconfirmed", code="ReadTimeoutError"))
    assert found.state == state
    if state == "act":
        many = f"so ended {unanswered} of {sent + unanswered} attempts of the last minutes"
        assert found.sentence.startswith(f"SES does not answer: {many}; `mailroom doctor` says")


def test_where_ses_throttles_mails_are_late_for_that() -> None:
    slowed = {"mails": Bucket(1_000, 0.1, 0.0)}
    found = told(reading(lanes=(lane(oldest=120, due=9),), buckets=slowed), *QUICK)
    assert found.sentence.startswith("Password recoveries are late, for SES throttles: one has been due for 2")


def test_what_makes_mails_late_is_told_before_that_they_are() -> None:
    lanes = (lane(oldest=120),)
    unanswered = minute(1, 4, outcome="unconfirmed", code="ReadTimeoutError")
    found = told(reading(lanes=lanes), minute(3, 240), unanswered)
    assert [code for code, state in codes(found) if state == "act"] == ["Unanswered", "OldJob0"]


def test_mails_that_are_deferred_again_and_again_need_somebody_and_say_why() -> None:
    throttled = minute(1, 40, outcome="deferred", code="TooManyRequestsException")
    found = told(reading(), minute(2, 3), throttled)
    assert codes(found)[0] == ("Deferred", "act")
    assert found.sentence.startswith(
        "Most mails have to be tried again: so ended 40 of 43 attempts of the last minutes (TooManyRequestsException);"
        " the rate comes back by itself"
    )
    elsewhere = told(reading(), minute(1, 9, outcome="deferred", code="EndpointConnectionError"))
    assert "`mailroom doctor` says whether SES can be reached" in elsewhere.sentence


@pytest.mark.parametrize(
    ("tries", "is_told"),
    [([1, 3, 5], True), ([2, 4, 6, 8], True), ([1, 2, 3], False), ([1, 5], False), ([4, 6, 8], False)],
)
def test_a_kind_that_is_tried_in_vain_for_long_is_told_though_others_leave(tries: list[int], is_told: bool) -> None:
    """A few mails that SES denies cost no attempt and pause nothing, and none of them is ever due for long."""
    denied = [
        minute(back, 1, action=ACTIVATION, priority=NORMAL, outcome="deferred", code="AccessDeniedException")
        for back in tries
    ]
    others = [minute(back, 100) for back in range(1, 10)]
    found = told(reading(), *others, *denied)
    assert codes(found) == ([("Deferred", "act")] if is_told else [])
    if is_told:
        assert found.sentence.startswith(
            f"Activations have to be tried again: so ended each of {len(tries)} attempts of the last ten minutes"
            " (AccessDeniedException); allow ses:SendEmail"
        )
    sent = minute(2, 1, action=ACTIVATION, priority=NORMAL)
    assert codes(told(reading(), *others, *denied, sent)) == []
    closed = reading(pauses=(paused(ACTIVATION, "AccessDeniedException", **PROBED),))
    assert ("Deferred", "act") not in codes(told(closed, *others, *denied))


def test_of_several_troubles_the_worst_is_said_and_the_others_are_counted() -> None:
    lanes = (lane(oldest=300, due=4), lane(ACTIVATION, NORMAL, 40, 900, queue="news"))
    found = told(
        reading(
            lanes=lanes,
            pauses=(paused("priority:2"), paused("identity", "MAIL_FROM_DOMAIN_NOT_VERIFIED", since=300, **PROBED)),
            account=account(enforcement="PROBATION"),
            flight=Flight(1, 10, 1, 80.0, 110.0),
            warnings={"OverdueBatch": "a batch is 80 s past its lease: nobody sweeps", "DeadRows": "jobs has 300000"},
        ),
        *QUICK,
    )
    assert codes(found) == [
        ("NoWorker", "act"),
        ("Paused", "act"),
        ("UnderReview", "act"),
        ("OverdueBatch", "act"),
        ("Paused", "look"),
        ("DeadRows", "look"),
    ]
    assert found.sentence.endswith("(3 other things need you too).")


def test_every_need_has_a_cure() -> None:
    everything = reading(
        lanes=(lane(oldest=300, held=1, queue="news"), lane(oldest=30)),
        pauses=(paused("account", "Unheard"), paused("sign_in", "MessageRejected")),
        workers=(worker(listening=False, busy=4), worker(100, name="gone/1")),
        account=account(enforcement="PROBATION", sending_enabled=False, sent_last_24_hours=49_000.0),
        buckets={"mails": Bucket(1, 0.1, 0.0)},
        warnings=dict.fromkeys(("OldTransaction", "NoAutovacuum", "FeedSilent", "Unheard"), "so: it is"),
        outcomes={"hour": {"failed": 1}},
    )
    found = told(everything, minute(outcome="unconfirmed"))
    assert len(found.needs) > 12
    assert [need for need in found.needs if not (need.what and need.why and need.cure)] == []
