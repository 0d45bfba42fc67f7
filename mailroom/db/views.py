"""The views of `sql/views/` as SQLAlchemy sees them: what an operator reads, without addresses, secrets or codes."""

from sqlalchemy import BigInteger, Integer, SmallInteger, Text, column, table

from mailroom.db.schema import delivery_outcome, moment, token_action

waiting_jobs = table(
    "waiting_jobs",
    column("token", BigInteger),
    column("action", token_action),
    column("state", Text),
    column("at", moment),
    column("attempt", SmallInteger),
    column("queue", Text),
    column("priority", SmallInteger),
    column("due_at", moment),
)

jobs_in_flight = table(
    "jobs_in_flight",
    column("token", BigInteger),
    column("action", token_action),
    column("state", Text),
    column("at", moment),
    column("attempt", SmallInteger),
    column("queue", Text),
    column("priority", SmallInteger),
    column("batch", BigInteger),
    column("worker", Text),
    column("lease_until", moment),
)

attempts = table(
    "attempts",
    column("id", BigInteger),
    column("token", BigInteger),
    column("account", BigInteger),
    column("action", token_action),
    column("state", Text),
    column("at", moment),
    column("attempt", SmallInteger),
    column("batch", BigInteger),
    column("outcome", delivery_outcome),
    column("code", Text),
    column("message_id", Text),
    column("error", Text),
)

open_pauses = table(
    "open_pauses",
    column("scope", Text),
    column("code", Text),
    column("reason", Text),
    column("opened_at", moment),
    column("probe_at", moment),
    column("probes", Integer),
)

token_states = table(
    "token_states",
    column("id", BigInteger),
    column("action", token_action),
    column("account", BigInteger),
    column("created_at", moment),
    column("expires_at", moment),
    column("consumed_at", moment),
)
