"""The newest version of a row that is changed again and again is found first, though nothing can be vacuumed."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A row of permits is changed some times a second, and so is the feed's. While somebody holds a snapshot, or a slot that
# nobody reads does, no older version of it goes, and whoever comes by the key passes them all. So the row says in which
# minute it was changed last, counted from 1970: the index has one minute's versions side by side, and the last minute
# at its end. Within a minute the row is changed where it lies, as before, and no index is written.
MINUTES = """
ALTER TABLE {table} ADD COLUMN minute bigint NOT NULL DEFAULT 0;
CREATE INDEX {table}_minute_idx ON {table} ({columns});
"""


def upgrade() -> None:
    op.execute(MINUTES.format(table="permits", columns="bucket, minute"))
    op.execute(MINUTES.format(table="feed", columns="minute"))


def downgrade() -> None:
    for table in ("permits", "feed"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN minute")
