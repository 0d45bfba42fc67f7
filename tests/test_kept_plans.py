"""A plan that a session keeps from a time when there was nothing is as good as one that is made when there is much.

So it is with a pool whose first request came while the queue was drained and vacuumed. Of an empty table PostgreSQL
takes any index for as good as any other, and keeps to it: what asks for a few rows then reads all of an index.
"""

from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from mailroom import queue, tokens
from mailroom.event import EventKind
from mailroom.fleet import pauses
from mailroom.ops import refresh, suppressions, walk
from mailroom.ops.jobs import Filters
from mailroom.outcome import Rejected, Unconfirmed
from mailroom.queue.verdict import judge
from tests.claiming import enqueue, enqueue_recovery, take
from tests.plans import NAMES, watch
from tests.telling import HARD, look_again, tell_of
from tests.test_plans import leave_alone, run_everything
from tests.window.client import opened
from tests.world import rows

# What grows with the mails. The others have a row for a kind of mail, a pause, a batch in flight, a worker, a minute.
LONG = {"accounts", "deliveries", "events", "guesses", "jobs", "suppressions", "tokens"}
# What is read from one end on, and only as far as is asked for: the first of each queue, and the newest on record.
IN_ORDER = {
    ("health", "jobs", "all of jobs_claim_idx"),
    ("browse_lanes", "jobs", "all of jobs_claim_idx"),
    ("browse_flooded", "deliveries", "all of deliveries_pkey"),
    ("reputation", "deliveries", "all of deliveries_pkey"),
    ("forget_truncated", "jobs", "SEQSCAN"),  # all that there is goes
    ("forget_truncated", "deliveries", "SEQSCAN"),
}
KEPT = text("SELECT proname FROM pg_proc WHERE 'plan_cache_mode=force_generic_plan' = ANY (proconfig)")
KEY = bytes(32)
MADE = "SELECT secret, code, path FROM tokens JOIN actions ON name = action WHERE id = :id"
MET = {"enqueue_jobs", "token_starts", "claim", "settle", "absorb", "suppression_review", "consume_token"}
PAGES = ["/", "/flight", "/held", "/record", "/unconfirmed", "/flooded", "/account", "/act/release?held=1"]


def call(connection: Connection, name: str, *given: Any) -> Any:
    """Call a function as an application does, with its arguments in their order."""
    places = ", ".join(f":a{number}" for number in range(len(given)))
    binds = {f"a{number}": each for number, each in enumerate(given)}
    return connection.execute(text(f"SELECT {name}({places})"), binds).scalar_one()


def apply(connection: Connection) -> None:
    """Do what an application does with accounts and tokens."""
    account = call(connection, "add_account", "someone@example.org", "someone", "active")
    call(connection, "change_account", account, None, "other@example.org")
    token = call(connection, "request_mail", "password_recovery", account)
    [made] = rows(connection, MADE, id=token)
    signed = tokens.sign(made.secret, path=made.path, key=KEY, code=made.code)
    assert tokens.consume(connection, signed, action="password_recovery", key=KEY, code=made.code)
    call(connection, "revoke_tokens", account)
    call(connection, "remove_account", account)


def settle_and_tell(connection: Connection) -> None:
    """Settle mails in each way there is, and hear of them."""
    enqueue(connection, 6, prefix="told")
    enqueue_recovery(connection)
    for outcome in (Rejected("Code", "no"), Unconfirmed("Slow", "no answer")):
        queue.settle(connection, [(take(connection, batch_limit=1), [judge(outcome, attempt=0, jitter=0)])])
    batch = take(connection, batch_limit=1)
    for kind in EventKind:
        tell_of(connection, batch, kind, "m", **HARD)
    look_again(connection)
    suppressions.add(connection, "nobody@example.org")
    pauses.open_pause(connection, "account", code="ByHand", reason="x")
    list(walk.find(connection, Filters()))
    list(walk.find(connection, Filters(outcomes=("rejected",))))


@pytest.mark.slow
def test_what_was_planned_when_there_was_nothing_reads_no_table_from_end_to_end(engine: Engine) -> None:
    watched = watch(engine)
    for act in (apply, enqueue, enqueue_recovery, settle_and_tell, run_everything):
        with engine.connect() as connection:
            leave_alone(connection)
            connection.execute(text("TRUNCATE accounts, deliveries, events, suppressions CASCADE"))
            connection.execute(text("VACUUM ANALYZE"))
            act(connection)
    refresh.refresh(engine)
    with opened(engine, actions=engine) as window:
        for path in PAGES:
            assert window.ask(path).status == 200, path
    with engine.connect() as connection:
        kept = set(connection.scalars(KEPT))
        names = {row.oid: row.relname for row in rows(connection, NAMES)}
    plans = [(function, plan) for each in watched for function, plan in each.all(names).items() if function in kept]
    found = {(function, *how) for function, plan in plans for how in plan.unbound() if how[0] in LONG}
    assert found <= IN_ORDER
    assert dict(plans).keys() >= MET
