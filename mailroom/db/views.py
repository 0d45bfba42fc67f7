"""The views of `sql/views/` as SQLAlchemy sees them: what an operator reads, without addresses, secrets or codes."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSON

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
    Column("due_at", moment),
    Column("claimed_at", moment),
    Column("call_ms", Integer),
    Column("queue", Text),
)

mail_events = Table(
    "mail_events",
    _metadata,
    Column("token", BigInteger),
    Column("message_id", Text),
    Column("kind", Text),
    Column("at", moment),
    Column("type", Text),
    Column("subtype", Text),
    Column("status", Text),
    Column("absorbed_at", moment),
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

suppressed_addresses = Table(
    "suppressed_addresses",
    _metadata,
    Column("reason", Text),
    Column("type", Text),
    Column("subtype", Text),
    Column("since", moment),
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

fleet_reading = Table(
    "fleet_reading",
    _metadata,
    Column("read_at", moment),
    Column("found", JSON),
    Column("failed_at", moment),
    Column("failure", Text),
    Column("due_at", moment),
    Column("minutes_until", moment),
)

minute_counts = Table(
    "minute_counts",
    _metadata,
    Column("at", moment),
    Column("queue", Text),
    Column("priority", SmallInteger),
    Column("action", Text),
    Column("outcome", Text),
    Column("code", Text),
    Column("mails", BigInteger),
    Column("waits", ARRAY(BigInteger)),
)

known_workers = Table(
    "known_workers",
    _metadata,
    Column("name", Text),
    Column("queue", Text),
    Column("version", Text),
    Column("started_at", moment),
    Column("seen_at", moment),
    Column("senders", Integer),
    Column("busy", Integer),
    Column("listening", Boolean),
    Column("feeding", Boolean),
)

permit_buckets = Table(
    "permit_buckets",
    _metadata,
    Column("bucket", Text),
    Column("granted", BigInteger),
    Column("slowdown", Double),
    Column("throttled_at", moment),
    Column("level", Double),
    Column("filled_at", moment),
)

account_limits = Table(
    "account_limits",
    _metadata,
    Column("fetched_at", moment),
    Column("max_send_rate", Double),
    Column("max_24_hour_send", Double),
    Column("sent_last_24_hours", Double),
    Column("granted_before", BigInteger),
    Column("sending_enabled", Boolean),
    Column("production_access", Boolean),
    Column("enforcement", Text),
)
