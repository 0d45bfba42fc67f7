"""A final delivery that an operator took back is marked: its job was put into the queue again."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Of a row that is marked nothing follows any more: the token is where its new job is. No default: no table rewrite.
RETRIED = """
ALTER TABLE deliveries ADD COLUMN retried_at timestamptz;
"""

# Whoever goes back knows one other word for a row that decides nothing.
LATE_INSTEAD = """
UPDATE deliveries SET late = true WHERE retried_at IS NOT NULL;
ALTER TABLE deliveries DROP COLUMN retried_at;
"""


def upgrade() -> None:
    op.execute(RETRIED)


def downgrade() -> None:
    op.execute(LATE_INSTEAD)
