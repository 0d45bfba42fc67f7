"""The views of `sql/views/` as SQLAlchemy sees them: what an operator reads, without addresses, secrets or codes."""

from sqlalchemy import BigInteger, Column, Integer, MetaData, SmallInteger, Table, Text

from mailroom.db.schema import delivery_outcome, moment

# Not that of the tables, which are all that migrations compare.
_metadata = MetaData()

waiting_jobs = Table(
    "waiting_jobs",
    _metadata,
    Column("token", BigInteger),
    Column("action", Text),
    Column("state", Text),
    Column("at", moment),
    Column("attempt", SmallInteger),
    Column("queue", Text),
    Column("priority", SmallInteger),
    Column("due_at", moment),
)

jobs_in_flight = Table(
    "jobs_in_flight",
    _metadata,
    Column("token", BigInteger),
    Column("action", Text),
    Column("state", Text),
    Column("at", moment),
    Column("attempt", SmallInteger),
    Column("queue", Text),
    Column("priority", SmallInteger),
    Column("batch", BigInteger),
    Column("worker", Text),
    Column("lease_until", moment),
)

attempts = Table(
    "attempts",
    _metadata,
    Column("id", BigInteger),
    Column("token", BigInteger),
    Column("account", BigInteger),
    Column("action", Text),
    Column("state", Text),
    Column("at", moment),
    Column("attempt", SmallInteger),
    Column("batch", BigInteger),
    Column("outcome", delivery_outcome),
    Column("code", Text),
    Column("message_id", Text),
    Column("error", Text),
)

open_pauses = Table(
    "open_pauses",
    _metadata,
    Column("scope", Text),
    Column("code", Text),
    Column("reason", Text),
    Column("opened_at", moment),
    Column("probe_at", moment),
    Column("probes", Integer),
)

token_states = Table(
    "token_states",
    _metadata,
    Column("id", BigInteger),
    Column("action", Text),
    Column("account", BigInteger),
    Column("created_at", moment),
    Column("expires_at", moment),
    Column("consumed_at", moment),
)
