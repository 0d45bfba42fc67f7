"""The queue: jobs that wait, batches in flight, and the log of deliveries.

No foreign keys here. A job outlives its token on purpose, so that the claim can say what became of it; and a key
would make every claim touch and lock rows of the application.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# jobs is small and turns over completely: its dead rows are worth a vacuum long before a fifth of it has changed.
# Its rows are never updated, so pages are filled. The statistics matter little (plans are pinned), but an analyze is
# cheap. A queue is named as MAILROOM_QUEUE_NAME may name it, or no worker could ever take it. Priority 3 is quarantine.
#
# What tells two mails apart must be random: a sequence comes again after a failover that lost commits, and with it the
# ids of batches and tokens. Hence the fence of a batch.
JOBS = r"""
CREATE TABLE jobs (
    token    bigint       PRIMARY KEY,
    due_at   timestamptz  NOT NULL,
    action   token_action NOT NULL,
    priority smallint     NOT NULL CHECK (priority BETWEEN 0 AND 3),
    attempt  smallint     NOT NULL DEFAULT 0,
    queue    text         NOT NULL CHECK (queue ~ '^\S{1,63}$')
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 5000
);
CREATE INDEX jobs_claim_idx ON jobs (queue, priority, action, due_at, token);

CREATE TABLE batches (
    id          bigint       GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fence       uuid         NOT NULL DEFAULT gen_random_uuid(),
    queue       text         NOT NULL,
    worker      text         NOT NULL,
    action      token_action NOT NULL,
    priority    smallint     NOT NULL,
    due_at      timestamptz  NOT NULL,
    tokens      bigint[]     NOT NULL,
    attempts    smallint[]   NOT NULL,
    claimed_at  timestamptz  NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz  NOT NULL,
    CONSTRAINT batches_arrays CHECK (cardinality(tokens) = cardinality(attempts) AND cardinality(tokens) > 0)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
"""

# A late answer that belongs to no token here is logged under none: a token of that id may yet come; one that belongs to
# one keeps the proof of that, some bytes of a hash of the secret. `limited`: it counts against the limits that its
# action had then. retried_at: an operator took the row back, and nothing follows from it any more.
#
# Acceptances that came after their batch had been rescued are few: so is what the claim looks through for each job.
DELIVERIES = """
CREATE TYPE delivery_outcome AS ENUM (
    'sent', 'rejected', 'failed', 'expired', 'cancelled', 'suppressed', 'deferred', 'unconfirmed'
);

CREATE TABLE deliveries (
    id         bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token      bigint,
    account    bigint,
    batch      bigint,
    fence      uuid,
    created_at timestamptz      NOT NULL DEFAULT now(),
    action     token_action     NOT NULL,
    outcome    delivery_outcome NOT NULL,
    attempt    smallint         NOT NULL,
    late       boolean          NOT NULL DEFAULT false,
    limited    boolean          NOT NULL DEFAULT false,
    message_id text,
    error_code text,
    error      text,
    retried_at timestamptz,
    proof      bytea
);
CREATE INDEX deliveries_token_idx ON deliveries (token);
CREATE INDEX deliveries_created_at_idx ON deliveries USING brin (created_at) WITH (autosummarize = on);
CREATE INDEX deliveries_limited_idx ON deliveries (account, action, created_at) WHERE limited;
CREATE INDEX deliveries_accepted_late_idx ON deliveries (token) WHERE late AND outcome = 'sent';
"""

# What a claim knows of a job from one step to the next.
CLAIMED = """
CREATE TYPE claimed_job AS (
    token bigint, due_at timestamptz, attempt smallint, account bigint, email text, login text, data text, secret bytea,
    code text, resend boolean, created_at timestamptz, accepted_in bigint, accepted_fence uuid, message_id text,
    ahead bigint, error_code text, surplus boolean, busy boolean
);
"""

# A table that is locked, and never written. An advisory lock can be held by whoever may connect.
LOCKS = """
CREATE TABLE locks (
    name text PRIMARY KEY
);
"""


def upgrade() -> None:
    for statements in (JOBS, DELIVERIES, CLAIMED, LOCKS):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TABLE locks, deliveries, batches, jobs")
    op.execute("DROP TYPE claimed_job, delivery_outcome")
