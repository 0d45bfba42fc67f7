"""A count of a minute can be told from another, so that it can be replaced where all tables are published."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """It has no key, and PostgreSQL refuses a DELETE in a table that is published and has no identity."""
    op.execute("ALTER TABLE minutes REPLICA IDENTITY FULL")


def downgrade() -> None:
    op.execute("ALTER TABLE minutes REPLICA IDENTITY DEFAULT")
