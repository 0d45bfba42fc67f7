"""What many senders of one process do where the database refuses them all for a while."""

import time
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from mailroom.db import preflight
from mailroom.ops import grants
from mailroom.queue.listener import NORMAL
from tests.roles import a_role
from tests.running import Scripted, connecting, eventually, working
from tests.servers import Server
from tests.trouble import statements
from tests.world import add_accounts, drained, misplaced


def made_by(engine: Engine) -> list[object]:
    """The connections that an engine makes from now on."""
    made: list[object] = []
    event.listen(engine, "connect", lambda connection, _: made.append(connection))
    return made


@pytest.mark.slow
def test_a_right_that_senders_lack_for_a_while_ends_no_worker(server: Server, engine: Engine, url: str) -> None:
    """Each makes its connection anew, and has all others do the same: at any moment one is being made."""
    with a_role(server) as (role, log_in), engine.connect() as connection, connecting(log_in(url), pool_size=19) as own:
        grants.apply(connection, grants.statements(connection, "worker", role))
        connection.execute(text(f"REVOKE EXECUTE ON FUNCTION claim FROM {role}"))
        add_accounts(connection, 50)
        preflight.check(own)
        made = made_by(own)
        with working(own, Scripted(), concurrency=16, sweep_interval=0.2):
            eventually(lambda: len(made) > 100, "all of them have failed again and again")
            connection.execute(text(f"GRANT EXECUTE ON FUNCTION claim TO {role}"))
            eventually(lambda: drained(connection), "all is sent")
        assert misplaced(connection) == []


@pytest.mark.slow
def test_a_mail_whose_claim_was_cut_off_does_not_wait_for_the_next_sweep(engine: Engine, url: str) -> None:
    """Its notification was used up by the claim that failed."""
    with engine.connect() as connection, connecting(url, pool_size=4) as own, statements(own) as seen:
        cut = iter([True])

        def end(conn: Connection, cursor: Any, statement: str, *_: object) -> None:
            if ".claim(" in statement and next(cut, False):
                pid = cursor.connection.info.backend_pid
                connection.execute(text("SELECT pg_terminate_backend(:pid, 60000)"), {"pid": pid})

        with working(own, Scripted(), sweep_interval=600) as worker:
            eventually(lambda: sum(".look(" in one for one in seen) > 4, "it looks less and less often")
            event.listen(own, "before_cursor_execute", end)
            add_accounts(connection, 1)
            began = time.monotonic()
            worker.woken(NORMAL)
            eventually(lambda: drained(connection), "it is sent")
            assert time.monotonic() - began < 5
