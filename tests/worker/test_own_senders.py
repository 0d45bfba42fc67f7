"""A sender that SES does not take keeps those mails alone that it sends: an action may have one of its own."""

import time
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, Engine

from mailroom.fleet import pauses
from mailroom.job import Action
from mailroom.mail.transport import Mail
from mailroom.outcome import Answer, Deferred, Scope, Sent
from mailroom.worker.breaker import FIRST_WAIT
from tests import running
from tests.claiming import claim, look, waited
from tests.kinds import ACTIVATION, KINDS, RECOVERY
from tests.running import Scripted
from tests.world import add_accounts, ask_recovery, count, execute, rows

OWN_SENDER = "UPDATE actions SET source = 'help@example.com' WHERE name = 'password_recovery'"
ALL_OWN = "UPDATE actions SET source = 'shop@example.com'"


class OneSenderRefused(Scripted):
    """SES takes the sender of an action, and not the one of all others."""

    def send(self, action: Action, mails: Sequence[Mail], *, batch: str | None) -> Sequence[Answer]:
        self.calls.append((action, len(mails)))
        if action.source is not None:
            return [Sent("m")] * len(mails)
        return [Deferred("MailFromDomainNotVerifiedException", "no", charged=False, scope=Scope.IDENTITY)] * len(mails)


def ask(connection: Connection, prefix: str) -> None:
    """Let somebody with an account ask for a recovery."""
    ask_recovery(connection, add_accounts(connection, 1, status="active", prefix=prefix)[0])


def paused(connection: Connection) -> list[str]:
    return [each.scope for each in pauses.read(connection)]


def test_mails_with_a_sender_of_their_own_leave_while_the_other_is_paused(engine: Engine) -> None:
    execute(engine, OWN_SENDER)
    sends = OneSenderRefused()
    works = running.sender(engine, sends)
    with engine.connect() as connection:
        add_accounts(connection, 1)
        works.work_claim()
        assert paused(connection) == ["identity"]
        ask(connection, "known")
        works.work_claim()
        assert sends.calls == [(ACTIVATION, 1), (RECOVERY, 1)]
        assert count(connection, "jobs WHERE action = 'password_recovery'") == 0
        assert paused(connection) == ["identity"]  # it tells nothing of that


def test_such_mails_neither_probe_nor_end_that_pause(engine: Engine) -> None:
    """Each would end it, and the next mail of the other sender begin it again: for ever, and with no wait between."""
    execute(engine, OWN_SENDER)
    sends = OneSenderRefused()
    works = running.sender(engine, sends)
    with engine.connect() as connection:
        add_accounts(connection, 1)
        works.work_claim()
        ask(connection, "known")
        execute(engine, "UPDATE jobs SET due_at = now() + interval '20 s' WHERE action = 'activation'")
        execute(engine, "UPDATE pauses SET probe_at = now()")
        assert not works.prober.probe()  # no mail that could try it is due
        execute(engine, "UPDATE jobs SET due_at = now() WHERE action = 'activation'")
        assert works.prober.probe()
        assert sends.calls == [(ACTIVATION, 1)] * 2
        assert paused(connection) == ["identity"]


def test_nor_are_they_held_back_by_its_probes(engine: Engine) -> None:
    """Each probe is in vain while the pause lasts: the process would back off for longer after each."""
    execute(engine, OWN_SENDER)
    sends = OneSenderRefused()
    works = running.sender(engine, sends)
    breaker = works._shared.breaker
    with engine.connect() as connection:
        add_accounts(connection, 1)
        works.work_claim()
        for _ in range(6):
            execute(engine, "UPDATE jobs SET due_at = now()")
            execute(engine, "UPDATE pauses SET probe_at = now()")
            assert breaker.wait_to_try(time.monotonic() + 60) == timedelta(0)  # so long after the last one
            assert works.prober.probe()
        assert paused(connection) == ["identity"]
    assert len(sends.calls) == 7
    assert breaker.wait_to_try(time.monotonic()) <= FIRST_WAIT


def test_that_pause_ends_once_no_mail_has_that_sender(engine: Engine) -> None:
    """No mail could try it any more. One that somebody made by hand stays."""
    with engine.connect() as connection:
        for before, last in (("SELECT", ALL_OWN), (OWN_SENDER, f"{ALL_OWN} WHERE name = 'activation'")):
            pauses.open_pause(connection, "identity", code="MessageRejected", reason="no")
            execute(engine, before)
            assert paused(connection) == ["identity"]
            execute(engine, last)
            assert paused(connection) == []
            execute(engine, "UPDATE actions SET source = NULL")
        pauses.open_pause(connection, "identity", code=pauses.BY_HAND, reason="no", probed=False)
        execute(engine, ALL_OWN)
        assert paused(connection) == ["identity"]


def test_a_look_sees_them(conn: Connection) -> None:
    add_accounts(conn, 1)
    ask(conn, "known")
    waited(conn)
    pauses.open_pause(conn, "identity", code="MessageRejected", reason="no")
    rows(conn, "UPDATE pauses SET probe_at = now() RETURNING scope")
    assert (look(conn).ready, look(conn).probeable) == (0, True)
    rows(conn, f"{OWN_SENDER} RETURNING name")
    assert (look(conn).ready, look(conn).probeable) == (1, True)
    assert [job.action for batch in claim(conn).batches for job in batch.jobs] == [RECOVERY]
    rows(conn, "DELETE FROM jobs RETURNING token")
    ask(conn, "another")
    waited(conn)
    assert look(conn).ready == 1
    assert pauses.probe(conn, queue="mailroom", lanes=KINDS.all, refusals=[]) is None
