"""How a process learns what SES allows, and that SES is not asked too often."""

import logging
import threading
import time

import pytest
from sqlalchemy import Engine, text

from mailroom import ses
from mailroom.errors import TransportError
from mailroom.fleet import buckets
from mailroom.fleet.account_refresh import AccountRefresh
from mailroom.job import SesAccount
from mailroom.simulator import Fault, Simulator
from tests.rating import tell_account
from tests.running import PATIENCE_SECONDS, aws, eventually
from tests.trouble import statements
from tests.world import execute, rows

CLAIM_REFRESH = "account_claim_refresh("


def test_what_ses_says_of_the_account_is_kept(
    engine: Engine, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    simulator.account.max_send_rate = 14
    simulator.account.max_24_hour_send = 50_000
    client = ses.connect_to_ask(region=None)
    watch = AccountRefresh(engine, lambda: ses.account(client))
    with engine.connect() as connection:
        connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity'"))
        assert watch.refresh()
        assert not watch.refresh()  # for a minute
        [row] = rows(connection, "SELECT * FROM ses_account")
    assert (row.max_send_rate, row.max_24_hour_send, row.sent_last_24_hours) == (14, 50_000, 0)
    assert (row.sending_enabled, row.production_access, row.enforcement) == (True, True, "HEALTHY")


@pytest.mark.parametrize("trouble", ["AccessDeniedException", "ReadTimeoutError"])
def test_an_account_that_may_not_be_asked_for_is_told_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    def refuse() -> SesAccount:
        raise TransportError(trouble)

    watch = AccountRefresh(engine, refuse)
    for _ in range(3):
        with engine.connect() as connection:
            connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity', fetched_at = NULL"))
        assert watch.refresh()
    assert caplog.text.count("account not known") == 1
    assert trouble in caplog.text


def test_who_may_not_ask_asks_less_and_less_often(engine: Engine) -> None:
    def refuse() -> SesAccount:
        raise TransportError("AccessDeniedException")

    watch, waits = AccountRefresh(engine, refuse), []
    with engine.connect() as connection:
        for _ in range(6):
            connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity', fetched_at = NULL"))
            assert watch.refresh()
            [row] = rows(
                connection, "SELECT extract(epoch FROM refresh_due_at - clock_timestamp()) AS left FROM ses_account"
            )
            waits.append(5 * round(float(row.left) / 5))
    assert waits == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize(
    ("limits", "code"), [((0, 50_000, 0), "MaxSendRate"), ((14, 0, 0), "Quota"), ((14, 200, 199.5), "Quota")]
)
def test_an_account_that_allows_nothing_is_told_once_and_when_that_is_over(
    engine: Engine, caplog: pytest.LogCaptureFixture, limits: tuple[float, float, float], code: str
) -> None:
    """Else a fleet stands still, and nobody is told why."""
    caplog.set_level("INFO")
    told = [limits] * 3 + [(-1, -1, 7)] * 2
    watch = AccountRefresh(
        engine,
        lambda: SesAccount(*told.pop(0), sending_enabled=True, production_access=True, enforcement="HEALTHY"),
    )
    while told:
        with engine.connect() as connection:
            connection.execute(text("UPDATE ses_account SET refresh_due_at = '-infinity'"))
        assert watch.refresh()
    assert caplog.text.count(f"SES allows no mails code={code} ") == 1
    assert caplog.text.count("SES allows mails again") == 1
    assert "account known again" not in caplog.text


def test_that_its_row_is_gone_is_told_once_and_ends_nothing(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    execute(engine, "ALTER TABLE ses_account DISABLE TRIGGER USER", "DELETE FROM ses_account")
    watch = AccountRefresh(engine, lambda: SesAccount(14, 50_000, 0, True, True, ""))
    assert watch.refresh()
    assert watch.refresh()
    assert caplog.text.count("ses_account lacks a row") == 1
    with engine.connect() as connection:
        for own_rate, rate in ((None, buckets.UNKNOWN_RATE), (5.0, 5.0)):
            granted = buckets.take(connection, buckets.Bucket.MAILS, 1, own_rate=own_rate, urgent=True)
            assert granted.per_second == rate, "it is not taken for an account without a limit"
    execute(engine, 'INSERT INTO "mailroom".ses_account DEFAULT VALUES')
    assert watch.refresh()
    assert "account known again" in caplog.text


def test_a_refusal_of_ses_is_known_by_its_code(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws(simulator).items():
        monkeypatch.setenv(name, value)
    simulator.faults.add(Fault(operation="GetAccount", error="BadRequestException", times=1))
    with pytest.raises(TransportError, match="BadRequestException"):
        ses.account(ses.connect_to_ask(region=None))


@pytest.mark.slow
@pytest.mark.early
def test_an_idle_process_asks_after_its_account_when_that_is_due_and_not_before(engine: Engine) -> None:
    """The others of the fleet wait for that, too: nothing that has a rhythm of its own costs a statement."""
    told = SesAccount(14, 50_000, 0, sending_enabled=True, production_access=True, enforcement="HEALTHY")
    asked: list[float] = []

    def ask() -> SesAccount:
        asked.append(time.monotonic())
        return told

    with engine.connect() as connection:
        tell_account(connection, 14)
        connection.execute(text("UPDATE ses_account SET refresh_due_at = clock_timestamp() + interval '6 seconds'"))
    with statements(engine) as seen, AccountRefresh(engine, ask).running():
        eventually(lambda: seen, "it looks")
        assert [CLAIM_REFRESH in one for one in seen] == [True]
        eventually(lambda: asked, "it asks when it is due")
        assert [CLAIM_REFRESH in one for one in seen].count(True) == 2


@pytest.mark.slow
def test_what_ses_answers_after_the_end_is_not_kept(engine: Engine) -> None:
    """The pool is closed by then, and a connection that is made all the same would be nobody's."""
    asked, answers = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def ask() -> SesAccount:
        threads.append(threading.current_thread())
        asked.set()
        answers.wait(PATIENCE_SECONDS)
        return SesAccount(14, 50_000, 0, sending_enabled=True, production_access=True, enforcement="HEALTHY")

    with engine.connect() as connection:
        connection.execute(text("UPDATE ses_account SET refresh_due_at = clock_timestamp(), fetched_at = NULL"))
    with AccountRefresh(engine, ask).running():
        assert asked.wait(PATIENCE_SECONDS)
    answers.set()
    [thread] = threads
    thread.join()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT fetched_at FROM ses_account")) is None
