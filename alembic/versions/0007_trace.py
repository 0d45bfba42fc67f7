"""From the request of an application to its mail: the trace that a token was made in, where there was one."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# As W3C writes it in `traceparent`; anything else is no trace, and must not fail what an application does. A column
# without a default is added in a moment, and the default is for the rows that come.
TRACE = """
ALTER TABLE tokens ADD COLUMN trace text;
ALTER TABLE tokens ALTER COLUMN trace
    SET DEFAULT substring(current_setting('mailroom.trace', true) FROM '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$');
"""


def upgrade() -> None:
    op.execute(TRACE)


def downgrade() -> None:
    op.execute("ALTER TABLE tokens DROP COLUMN trace")
