"""The tables as SQLAlchemy sees them. The migrations make them; a test holds the two together."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB

from mailroom.db.event_schema import events, feed, resumptions, site, suppressions
from mailroom.db.metadata import TYPES, account_status, delivery_outcome, event_kind, metadata, moment, token_action
from mailroom.db.window_schema import minutes, readings, workers

__all__ = [
    "TYPES",
    "account_status",
    "accounts",
    "actions",
    "batches",
    "deliveries",
    "delivery_outcome",
    "event_kind",
    "events",
    "feed",
    "guesses",
    "jobs",
    "locks",
    "metadata",
    "minutes",
    "moment",
    "pauses",
    "permits",
    "readings",
    "resumptions",
    "ses_account",
    "site",
    "suppressions",
    "tokens",
    "workers",
]

actions = Table(
    "actions",
    metadata,
    Column("name", token_action, CheckConstraint("name ~ '…'"), primary_key=True),
    Column("number", SmallInteger, nullable=False),
    Column("template", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("life", INTERVAL, nullable=False, server_default=text("'00:15:00'")),
    Column("has_code", Boolean, nullable=False, server_default=text("false")),
    Column("priority", SmallInteger, nullable=False, server_default=text("1")),
    Column("needs", account_status, nullable=False, server_default="active"),
    Column("renews", Boolean, nullable=False, server_default=text("false")),
    Column("newest_only", Boolean, nullable=False, server_default=text("false")),
    Column("per_15_minutes", Integer),
    Column("per_day", Integer),
    Column("activates", Boolean, nullable=False, server_default=text("false")),
    Column(
        "limited",
        Boolean,
        Computed("per_15_minutes IS NOT NULL OR per_day IS NOT NULL", persisted=True),
        nullable=False,
    ),
    Column("source", Text),
    Column("reply_to", Text),
    UniqueConstraint("number", name="actions_number_key"),
    UniqueConstraint("path", name="actions_path_key"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("email", Text, nullable=False),
    Column("login", Text, nullable=False),
    Column("status", account_status, nullable=False, server_default="provisioned"),
    Column("language", Text),
    Column("tenant", Text, nullable=False, server_default=text("''")),
    Column("reference", Text),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("status_changed_at", moment),
    Column("activated_at", moment),
    Column("suspended_at", moment),
    Column("unsuspended_at", moment),
    UniqueConstraint("reference", name="accounts_reference_key"),
    CheckConstraint("account_is_sound(…)", name="accounts_sound"),
)
Index("accounts_email_key", func.address_key(accounts.c.email), accounts.c.tenant, unique=True)
Index("accounts_login_key", func.login_key(accounts.c.login), accounts.c.tenant, unique=True)

tokens = Table(
    "tokens",
    metadata,
    Column("id", BigInteger, Identity(always=False), primary_key=True),
    Column("action", token_action, nullable=False),
    Column("secret", LargeBinary, nullable=False, server_default=text("sha256(...)")),
    Column("code", Text, nullable=False, server_default=text("lpad(...)")),
    Column("account", BigInteger, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("address", Text),
    Column("data", JSONB),
    Column("expires_at", moment, nullable=False),
    Column("consumed_at", moment),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("address_hash", LargeBinary, nullable=False),
    Column("newest_only", Boolean, nullable=False, server_default=text("false")),
    Column("trace", Text, server_default=text('"substring"(...)')),
    UniqueConstraint("secret", name="tokens_secret_key"),
    CheckConstraint("token_is_sound(…)", name="tokens_sound"),
    Index("tokens_account_idx", "account"),
)
Index(
    "tokens_newest_idx",
    tokens.c.account,
    tokens.c.action,
    tokens.c.id,
    postgresql_where=text("newest_only"),
)
Index(
    "tokens_consumed_idx",
    tokens.c.account,
    tokens.c.action,
    tokens.c.id,
    postgresql_where=text("consumed_at IS NOT NULL"),
)

templates = Table(
    "templates",
    metadata,
    Column("name", Text, CheckConstraint("name ~ '^[A-Za-z0-9_-]{1,64}$'"), primary_key=True),
    Column("action", token_action, nullable=False),
    Column("languages", ARRAY(Text), nullable=False),
    Column("default_language", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    CheckConstraint("default_language = ANY (languages)", name="templates_default"),
    CheckConstraint("array_to_string(languages, ' ', '*') ~ '…'", name="templates_languages"),
    CheckConstraint("array_ndims(languages) = 1", name="templates_languages_list"),
)

guesses = Table(
    "guesses",
    metadata,
    Column("token", BigInteger, ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("made", SmallInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("token", BigInteger, primary_key=True, autoincrement=False),
    Column("due_at", moment, nullable=False),
    Column("action", token_action, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("queue", Text, nullable=False),
    Index("jobs_claim_idx", "queue", "priority", "action", "due_at", "token"),
    CheckConstraint("job_is_sound(…)", name="jobs_sound"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("action", token_action, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("due_at", moment, nullable=False),
    Column("tokens", ARRAY(BigInteger), nullable=False),
    Column("attempts", ARRAY(SmallInteger), nullable=False),
    Column("claimed_at", moment, nullable=False, server_default=func.clock_timestamp()),
    Column("lease_until", moment, nullable=False),
    Column("fence", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    Column("due_ats", ARRAY(moment)),
    CheckConstraint("batch_is_sound(…)", name="batches_sound"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("token", BigInteger),
    Column("account", BigInteger),
    Column("batch", BigInteger),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("action", token_action, nullable=False),
    Column("outcome", delivery_outcome, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("late", Boolean, nullable=False, server_default=text("false")),
    Column("limited", Boolean, nullable=False, server_default=text("false")),
    Column("message_id", Text),
    Column("error_code", Text),
    Column("error", Text),
    Column("retried_at", moment),
    Column("fence", Uuid),
    Column("proof", LargeBinary),
    Column("queue", Text),
    Column("priority", SmallInteger),
    Column("due_at", moment),
    Column("claimed_at", moment),
    Column("call_ms", Integer),
    CheckConstraint("priority BETWEEN 0 AND 3", name="deliveries_priority"),
    Index("deliveries_token_idx", "token"),
    Index("deliveries_created_at_idx", "created_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
)
Index(
    "deliveries_limited_idx",
    deliveries.c.account,
    deliveries.c.action,
    deliveries.c.created_at,
    postgresql_where=text("limited"),
)

Index(
    "deliveries_unsent_idx",
    deliveries.c.created_at,
    postgresql_where=text("outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL"),
)
# With a condition that nobody else has: a claim asks of one token alone, and must not walk over all of them.
Index(
    "deliveries_unconfirmed_idx",
    deliveries.c.created_at,
    postgresql_where=text("coalesce(outcome = 'unconfirmed', false)"),
)
Index("jobs_held_idx", jobs.c.token, postgresql_where=text("due_at = 'infinity'"))
Index("deliveries_accepted_late_idx", deliveries.c.token, postgresql_where=text("late AND outcome = 'sent'"))

locks = Table("locks", metadata, Column("name", Text, primary_key=True))

pauses = Table(
    "pauses",
    metadata,
    Column("scope", Text(collation="C"), primary_key=True),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("opened_at", moment, nullable=False, server_default=func.now()),
    Column("probe_at", moment),
    Column("probes", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("probes >= 0", name="pauses_probes"),
)

ses_account = Table(
    "ses_account",
    metadata,
    Column("one", Boolean, CheckConstraint("one"), primary_key=True, server_default=text("true")),
    Column("refresh_due_at", moment, nullable=False, server_default=text("'-infinity'")),
    Column("fetched_at", moment),
    Column("max_send_rate", Double),
    Column("max_24_hour_send", Double),
    Column("sent_last_24_hours", Double),
    Column("granted_before", BigInteger, nullable=False, server_default=text("0")),
    Column("sending_enabled", Boolean),
    Column("production_access", Boolean),
    Column("enforcement", Text),
    CheckConstraint("…", name="ses_account_numbers"),
)

permits = Table(
    "permits",
    metadata,
    Column("bucket", Text, primary_key=True),
    Column("level", Double, nullable=False, server_default=text("0")),
    Column("filled_at", moment, nullable=False, server_default=func.clock_timestamp()),
    Column("granted", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "slowdown",
        Double,
        CheckConstraint("slowdown > 0 AND slowdown <= 1"),
        nullable=False,
        server_default=text("1"),
    ),
    Column("throttled_at", moment),
    Column("long_held", Double, nullable=False, server_default=text("0")),
    Column("long_held_until", moment, nullable=False, server_default=text("'-infinity'")),
    Column("minute", BigInteger, nullable=False, server_default=text("0")),
    Index("permits_minute_idx", "bucket", "minute"),
    CheckConstraint("bucket IN ('mails', 'bulk_calls')", name="permits_bucket"),
    CheckConstraint("…", name="permits_numbers"),
)
