"""The tables of what is counted and who works, for the operator's window."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Index, Integer, SmallInteger, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSON

from mailroom.db.metadata import metadata, moment

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("started_at", moment, nullable=False),
    Column("seen_at", moment, nullable=False),
    Column("senders", Integer, nullable=False),
    Column("busy", Integer, nullable=False),
    Column("listening", Boolean),
    Column("feeding", Boolean, nullable=False),
)

readings = Table(
    "readings",
    metadata,
    Column("one", Boolean, CheckConstraint("one"), primary_key=True, server_default=text("true")),
    Column("due_at", moment, nullable=False, server_default=text("'-infinity'")),
    Column("read_at", moment),
    Column("found", JSON),
    Column("failed_at", moment),
    Column("failure", Text, nullable=False, server_default=text("''")),
    Column("minutes_until", moment),
)

minutes = Table(
    "minutes",
    metadata,
    Column("at", moment, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger),
    Column("action", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("mails", BigInteger, nullable=False),
    Column("waits", ARRAY(BigInteger), nullable=False),
    Index("minutes_at_idx", "at"),
    CheckConstraint("…", name="minutes_numbers"),
)
