"""Pauses, which the whole fleet keeps, and quarantine, the priority of jobs that may be what kills their workers."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A scope is `account`, `configuration_set`, `identity`, an action, or `queue:NAME`. Without probe_at a pause was made
# by hand and ends by hand. Few rows ever: no index but the key.
PAUSES = """
CREATE TABLE pauses (
    scope     text        PRIMARY KEY,
    code      text        NOT NULL,
    reason    text        NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    probe_at  timestamptz,
    probes    integer     NOT NULL DEFAULT 0
);
"""

QUARANTINE = """
ALTER TABLE jobs DROP CONSTRAINT jobs_priority_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_priority_check CHECK (priority BETWEEN 0 AND 3);
"""

# Whoever goes back has no quarantine: those jobs are bulk again.
NO_QUARANTINE = """
UPDATE jobs SET priority = 2 WHERE priority = 3;
ALTER TABLE jobs DROP CONSTRAINT jobs_priority_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_priority_check CHECK (priority BETWEEN 0 AND 2);
"""


def upgrade() -> None:
    op.execute(PAUSES)
    op.execute(QUARANTINE)


def downgrade() -> None:
    op.execute(NO_QUARANTINE)
    op.execute("DROP TABLE pauses")
