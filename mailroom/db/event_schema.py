"""The tables of what became of mails, as SQLAlchemy sees them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Index,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from mailroom.db.metadata import event_kind, metadata, moment

site = Table(
    "site",
    metadata,
    Column("one", Boolean, CheckConstraint("one"), primary_key=True, server_default=text("true")),
    Column("id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
)

events = Table(
    "events",
    metadata,
    Column("message_id", Text(collation="C"), primary_key=True),
    Column("kind", event_kind, primary_key=True),
    Column("at", moment, primary_key=True),
    Column("token", BigInteger),
    Column("fence", Uuid),
    Column("address_hash", LargeBinary),
    Column("type", Text, nullable=False, server_default=text("''")),
    Column("subtype", Text, nullable=False, server_default=text("''")),
    Column("status", Text, nullable=False, server_default=text("''")),
    Column("absorbed_at", moment, nullable=False, server_default=func.clock_timestamp()),
    Column("look_at", moment),
    Index("events_token_idx", "token", postgresql_where=text("token IS NOT NULL")),
    Index(
        "events_address_idx",
        *("address_hash", "kind", "at"),
        postgresql_where=text("kind IN ('delivery', 'bounce', 'complaint')"),
    ),
    Index("events_reputation_idx", "at", postgresql_where=text("coalesce(kind IN ('bounce', 'complaint'), false)")),
    Index("events_contradicting_idx", "look_at", postgresql_where=text("look_at IS NOT NULL")),
    Index("events_unknown_idx", "absorbed_at", postgresql_where=text("token IS NULL")),
)

suppressions = Table(
    "suppressions",
    metadata,
    Column("address_hash", LargeBinary, primary_key=True),
    Column("bounced_at", moment),
    Column("soft_at", moment),
    Column("complained_at", moment),
    Column("added_at", moment),
    Column("lifted_at", moment),
    Column("released_at", moment),
    Column("type", Text, nullable=False, server_default=text("''")),
    Column("subtype", Text, nullable=False, server_default=text("''")),
    Column("reason", Text, Computed("CASE...", persisted=True)),
)

feed = Table(
    "feed",
    metadata,
    Column("one", Boolean, CheckConstraint("one"), primary_key=True, server_default=text("true")),
    Column("polled_at", moment),
    Column("heard_at", moment),
    *(
        Column(name, BigInteger, nullable=False, server_default=text("0"))
        for name in ("added", "known", "elsewhere", "unknown", "minute")
    ),
    Index("feed_minute_idx", "minute"),
)

resumptions = Table(
    "resumptions",
    metadata,
    Column("scope", Text(collation="C"), primary_key=True),
    Column("resumed_at", moment, nullable=False),
)
