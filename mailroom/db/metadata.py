"""What all tables are described with: types of their own, and where they are collected."""

from typing import Final

from sqlalchemy import DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import DOMAIN, ENUM

metadata = MetaData()

account_status = ENUM("provisioned", "active", "suspended", name="account_status", metadata=metadata)
token_action = DOMAIN("token_action", Text(collation="C"), metadata=metadata)
delivery_outcome = ENUM(
    *("sent", "rejected", "failed", "expired", "cancelled", "suppressed", "deferred", "unconfirmed"),
    name="delivery_outcome",
    metadata=metadata,
)
event_kind = ENUM(
    *("accepted", "send", "delivery", "bounce", "complaint", "reject", "rendering_failure", "delivery_delay"),
    name="event_kind",
    metadata=metadata,
)
# And one of rows.
TYPES: Final = ("account_status", "token_action", "delivery_outcome", "event_kind", "claimed_job")
moment = DateTime(timezone=True)
