"""A job is due at a moment that every program can hold, or it is held ('infinity')."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Who sets one by hand may write '-infinity' for "at once". No datetime of Python holds that, nor a year before 1 or
# after 9999, and one such job would stop its lane. The table is locked for a moment: it is not looked through then.
RULE = """
ALTER TABLE jobs DROP CONSTRAINT IF EXISTS jobs_due_at;
ALTER TABLE jobs
    ADD CONSTRAINT jobs_due_at CHECK (
        due_at BETWEEN '1000-01-01 00:00+00' AND '9000-01-01 00:00+00' OR due_at = 'infinity'
    ) NOT VALID;
"""
# With what follows one transaction, which lasts as long as it takes, whatever a role sets.
UNHURRIED = """
SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout');
"""
# What there is keeps its order.
MEND = """
UPDATE {home}.jobs
   SET due_at = least(greatest(due_at, '1000-01-01 00:00+00'), '9000-01-01 00:00+00')
 WHERE due_at < '1000-01-01 00:00+00' OR (due_at > '9000-01-01 00:00+00' AND due_at < 'infinity')
"""
CHECK = "ALTER TABLE {home}.jobs VALIDATE CONSTRAINT jobs_due_at"


def upgrade() -> None:
    op.execute(RULE)
    home = '"' + str(op.get_context().version_table_schema).replace('"', '""').replace(":", r"\:") + '"'
    with op.get_context().autocommit_block():
        for statement in (MEND, CHECK):
            op.execute(UNHURRIED + statement.format(home=home))


def downgrade() -> None:
    op.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_due_at")
