"""What a claim held that came to nothing is claimed next, though another sender has gone on behind it meanwhile."""

import threading

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mailroom.worker.sender import Sender
from tests import running
from tests.running import Scripted
from tests.worker.test_given_back import lose_one_answer
from tests.world import add_accounts, drained, execute, transaction, until_somebody_waits


def two_senders(engine: Engine, sends: Scripted) -> tuple[Sender, Sender]:
    """Of one process, and two mails that have been due for so long that floors matter."""
    both = running.shared(engine, sends, batch_limit=1)
    with engine.connect() as connection:
        add_accounts(connection, 2)
    execute(engine, "UPDATE jobs SET due_at = now() - interval '1 minute'")
    return Sender(both, name="first"), Sender(both, name="second")


def assert_all_is_sent_by(sender: Sender, engine: Engine, sends: Scripted) -> None:
    sender.work_claim()
    with engine.connect() as connection:
        assert drained(connection)
    assert set(sends.mailed) == {1, 2}


def test_what_a_claim_took_whose_answer_was_lost(engine: Engine) -> None:
    sends = Scripted()
    first, second = two_senders(engine, sends)
    lose_one_answer(engine, ".claim(")
    with pytest.raises(DBAPIError):
        first.work_claim()
    second.work_claim()
    assert_all_is_sent_by(first, engine, sends)


def let_claims_fail(engine: Engine, worker: str) -> None:
    """Let the claims of one fail, each once nobody has locked the table `held`, and keep its jobs locked till then."""
    execute(
        engine,
        "CREATE TABLE held ()",
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM FROM held; RAISE 'no such claim'; END$$",
        "CREATE TRIGGER fails BEFORE INSERT ON batches FOR EACH ROW"
        f" WHEN (starts_with(NEW.worker, '{worker}')) EXECUTE FUNCTION fails()",
    )


def test_what_a_claim_had_locked_that_failed(engine: Engine) -> None:
    sends = Scripted()
    first, second = two_senders(engine, sends)
    let_claims_fail(engine, "first")
    failed: list[DBAPIError] = []

    def claims() -> None:
        try:
            first.work_claim()
        except DBAPIError as error:
            failed.append(error)

    with transaction(engine) as holder:
        holder.execute(text("LOCK TABLE held"))
        thread = threading.Thread(target=claims)
        thread.start()
        until_somebody_waits(engine)
        second.work_claim()  # it passes over what is locked
        holder.commit()
        thread.join()
    execute(engine, "DROP TRIGGER fails ON batches")
    assert (len(failed), sends.mailed) == (1, [2])
    assert_all_is_sent_by(first, engine, sends)
