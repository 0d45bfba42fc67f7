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
# Its rows are never updated, so pages are filled. The statistics matter little (the claim is planned afresh each
# time), but an analyze is cheap. A queue is named as MAILROOM_QUEUE_NAME may name it, or no worker could ever take it.
JOBS = r"""
CREATE TABLE jobs (
    token    bigint       PRIMARY KEY,
    due_at   timestamptz  NOT NULL,
    action   token_action NOT NULL,
    priority smallint     NOT NULL CHECK (priority BETWEEN 0 AND 2),
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

DELIVERIES = """
CREATE TYPE delivery_outcome AS ENUM (
    'sent', 'rejected', 'failed', 'expired', 'cancelled', 'suppressed', 'deferred', 'unconfirmed'
);

CREATE TABLE deliveries (
    id         bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token      bigint           NOT NULL,
    account    bigint,
    batch      bigint,
    created_at timestamptz      NOT NULL DEFAULT now(),
    action     token_action     NOT NULL,
    outcome    delivery_outcome NOT NULL,
    attempt    smallint         NOT NULL,
    late       boolean          NOT NULL DEFAULT false,
    message_id text,
    error_code text,
    error      text
);
CREATE INDEX deliveries_token_idx ON deliveries (token);
CREATE INDEX deliveries_created_at_idx ON deliveries USING brin (created_at) WITH (autosummarize = on);
"""

# A commit that notifies takes a lock of the whole cluster until it is flushed, so a statement notifies only when
# somebody may be asleep who should not be: always for urgent jobs, for normal ones when no other due job waits (a
# worker that is busy looks again by itself), never for bulk. The look reaches back one second only: under an old
# snapshot a longer one would walk over every job done since. Misjudged, it costs a notification or a sweep interval.
# enable_seqscan: PL/pgSQL keeps the plan of that look, and one made on an empty table must not meet a full one.
# Jobs are due from the moment of the trigger, not of the transaction: closer to the order in which they commit.
ENQUEUE = """
CREATE FUNCTION enqueue_jobs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    enqueued_at timestamptz := clock_timestamp();
    to_queue    text := coalesce(nullif(current_setting('mailroom.queue', true), ''), 'mailroom');
    notifies    boolean := coalesce(nullif(current_setting('mailroom.notify', true), ''), 'on')::boolean;
    bulk        boolean := coalesce(nullif(current_setting('mailroom.bulk', true), ''), 'off')::boolean;
    activations bigint;
    recoveries  bigint;
    wakes       text;
BEGIN
    SELECT count(*) FILTER (WHERE action = 'activation'), count(*) FILTER (WHERE action = 'password_recovery')
      INTO activations, recoveries FROM added;
    bulk := bulk OR activations > 50;

    IF notifies AND recoveries > 0 THEN
        wakes := '0';
    ELSIF notifies AND activations > 0 AND NOT bulk AND NOT EXISTS (
        SELECT FROM unnest(enum_range(NULL::token_action)) AS lane (action), generate_series(0, 2) AS priority,
            LATERAL (
                SELECT FROM jobs
                 WHERE jobs.queue = to_queue AND jobs.priority = priority.priority AND jobs.action = lane.action
                   AND jobs.due_at BETWEEN enqueued_at - interval '1 second' AND enqueued_at
                 LIMIT 1
            ) AS waiting
    ) THEN
        wakes := '1';
    END IF;

    INSERT INTO jobs (token, due_at, action, priority, queue)
    SELECT id, enqueued_at, action,
           CASE WHEN action = 'password_recovery' THEN 0 WHEN bulk THEN 2 ELSE 1 END,
           to_queue
      FROM added;

    IF wakes IS NOT NULL THEN
        PERFORM pg_notify(coalesce(nullif(current_setting('mailroom.channel', true), ''), 'token_insert'), wakes);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER enqueue_jobs AFTER INSERT ON tokens
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION enqueue_jobs();

REVOKE EXECUTE ON FUNCTION enqueue_jobs() FROM PUBLIC;
"""


# What a claim knows of a job from one step to the next.
CLAIMED = """
CREATE TYPE claimed_job AS (
    token bigint, due_at timestamptz, attempt smallint, account bigint, email text, login text, secret bytea, code text,
    resend boolean, created_at timestamptz, accepted_in bigint, accepted_fence uuid, message_id text, ahead bigint,
    error_code text, surplus boolean, busy boolean
);
"""


def upgrade() -> None:
    for statements in (JOBS, DELIVERIES, ENQUEUE, CLAIMED):
        op.execute(statements)


def downgrade() -> None:
    op.execute(
        """
        DROP TRIGGER enqueue_jobs ON tokens;
        DROP FUNCTION enqueue_jobs;
        DROP TABLE deliveries, batches, jobs;
        DROP TYPE delivery_outcome, claimed_job;
        """
    )
