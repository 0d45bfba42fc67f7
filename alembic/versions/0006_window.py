"""What the operator's window shows: when a mail was due and claimed, which workers there are, and what was counted."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# When each job of a batch was due, in the order of its tokens; the row of the job is gone while it is in flight. Of
# each attempt: that, when it was claimed, and how many milliseconds the call took. Columns without a default are added
# in a moment, however long a log is.
LIFE = """
ALTER TABLE batches ADD COLUMN due_ats timestamptz[];
ALTER TABLE deliveries
    ADD COLUMN due_at     timestamptz,
    ADD COLUMN claimed_at timestamptz,
    ADD COLUMN call_ms    integer;
"""

# Each process that sends, by a name of its own. listening: NULL is one that does not listen at all.
WORKERS = """
CREATE TABLE workers (
    name       text        PRIMARY KEY,
    queue      text        NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    senders    integer     NOT NULL,
    busy       integer     NOT NULL,
    listening  boolean,
    feeding    boolean     NOT NULL
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
"""

# One row: what one process counted for all, when (read_at), and when the next is to (due_at). minutes_until: up to
# which moment `minutes` is complete. What fails leaves what was counted before.
READINGS = """
CREATE TABLE readings (
    one           boolean     PRIMARY KEY DEFAULT true CHECK (one),
    due_at        timestamptz NOT NULL DEFAULT '-infinity',
    read_at       timestamptz,
    found         json,
    failed_at     timestamptz,
    failure       text        NOT NULL DEFAULT '',
    minutes_until timestamptz
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100, autovacuum_vacuum_cost_delay = 0
);
INSERT INTO readings DEFAULT VALUES;
"""

# What became of mails by the minute: a row for each kind that there was, and how many of those that were called had
# waited how long. Made again from the log, so there is nothing to keep it unique for.
MINUTES = """
CREATE TABLE minutes (
    at       timestamptz NOT NULL,
    queue    text        NOT NULL,
    priority smallint,
    action   text        NOT NULL,
    outcome  text        NOT NULL,
    code     text        NOT NULL,
    mails    bigint      NOT NULL,
    waits    bigint[]    NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX minutes_at_idx ON minutes (at);
"""

# What may be out twice is looked for by time, and is little; the log is long. With a condition that nobody else has: a
# claim asks of one token alone, and must not walk over all of them.
INDEXES = {"deliveries_unconfirmed_idx": "deliveries (created_at) WHERE coalesce(outcome = 'unconfirmed', false)"}


def index_concurrently() -> None:
    """Make indexes on tables that others write to: outside of a transaction, where no search_path is set."""
    home = '"' + str(op.get_context().version_table_schema).replace('"', '""').replace(":", r"\:") + '"'
    with op.get_context().autocommit_block():
        for name, what in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {home}.{name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {home}.{what}")


def upgrade() -> None:
    index_concurrently()
    for statements in (LIFE, WORKERS, READINGS, MINUTES):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP INDEX deliveries_unconfirmed_idx")
    op.execute("DROP TABLE minutes, readings, workers")
    op.execute("ALTER TABLE deliveries DROP COLUMN due_at, DROP COLUMN claimed_at, DROP COLUMN call_ms")
    op.execute("ALTER TABLE batches DROP COLUMN due_ats")
