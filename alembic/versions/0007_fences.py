"""Random fences, evidence that is bound to its mail, and locks that not everybody can take.

A sequence comes again after a failover that lost commits, and with it the ids of batches and tokens. What tells two
mails apart must be random: the fence of a batch, and the secret of a token.
"""

import logging

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

# The log names a batch by its fence too. A late answer that belongs to no token here is logged under none: a token of
# that id may yet come; one that belongs to one keeps the proof of that, some bytes of a hash of the secret. No default
# and no constraint of deliveries that asks for a look at its rows.
FENCES = """
ALTER TABLE batches ADD COLUMN fence uuid NOT NULL DEFAULT gen_random_uuid();
ALTER TABLE deliveries ADD COLUMN fence uuid, ADD COLUMN proof bytea, ALTER COLUMN token DROP NOT NULL;
"""

NO_FENCES = """
DELETE FROM deliveries WHERE token IS NULL;
ALTER TABLE deliveries DROP COLUMN fence, DROP COLUMN proof, ALTER COLUMN token SET NOT NULL;
ALTER TABLE batches DROP COLUMN fence;
"""

# Acceptances that came after their batch had been rescued are few: so is what the claim looks through for each job.
LATE = "deliveries_accepted_late_idx ON {schema}.deliveries (token) WHERE late AND outcome = 'sent'"
FOUND = """
SELECT replace(quote_ident(current_schema()), ':', '\\:'),
       (SELECT relkind = 'p' FROM pg_class WHERE oid = 'deliveries'::regclass),
       (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('deliveries_accepted_late_idx'))
"""

# A table that is locked, and never written. An advisory lock can be held by whoever may connect.
LOCKS = """
CREATE TABLE locks (
    name text PRIMARY KEY
);
"""

# The row of the account is locked, so that two claims cannot both mail its last recovery: whoever only may connect
# cannot hold it, and nobody waits for it. VOLATILE: what is read after the lock is read in a new snapshot.
# A mail that may have gone out twice is one mail: its copies are not the account's doing. `own` is not counted, or a
# mail whose fate is unknown would stand in its own way.
# What lies in the future was before a clock was set back, nobody knows when: it is not counted.
# Few mails are in flight, and an account may have a million tokens: hence the subquery, which cannot become a join.
# enable_seqscan: PL/pgSQL keeps its plans, and one made on empty tables must not meet full ones. jit: before PostgreSQL
# 18 that makes batches, which can only be scanned, look so dear that the plan is compiled, for a tenth of a second.
FITS = """
CREATE OR REPLACE FUNCTION recovery_fits(owner bigint, own bigint, per_15_minutes integer, per_day integer)
    RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT SET enable_seqscan = off SET jit = off AS $$
DECLARE
    lately bigint;
    today  bigint;
BEGIN
    PERFORM FROM accounts WHERE id = owner FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT count(DISTINCT token) FILTER (WHERE mailed_at > now() - interval '15 minutes'), count(DISTINCT token)
      INTO lately, today
      FROM (
           SELECT token, created_at
             FROM deliveries
            WHERE account = owner AND action = 'password_recovery' AND outcome IN ('sent', 'unconfirmed')
              AND created_at > now() - interval '1 day' AND created_at <= clock_timestamp()
            UNION ALL
           SELECT held.token, batches.claimed_at
             FROM batches
            CROSS JOIN LATERAL unnest(batches.tokens) AS held (token)
            WHERE batches.action = 'password_recovery' AND batches.claimed_at <= clock_timestamp()
              AND owner = (SELECT account FROM tokens WHERE id = held.token)
           ) AS mailed (token, mailed_at)
     WHERE token <> own;
    RETURN lately < per_15_minutes AND today < per_day;
END $$;
COMMENT ON FUNCTION recovery_fits IS
    'Whether an account may get another recovery mail; no other claim can take one of it until this transaction ends.'
    ' NULL: somebody has locked the account, or it is gone.';
REVOKE EXECUTE ON FUNCTION recovery_fits FROM PUBLIC;
"""

FITS_BEFORE = """
CREATE OR REPLACE FUNCTION recovery_fits(owner bigint, own bigint, per_15_minutes integer, per_day integer)
    RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY INVOKER
    SET search_path FROM CURRENT SET enable_seqscan = off SET jit = off AS $$
DECLARE
    lately bigint;
    today  bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('mailroom recovery'), hashint8(owner));
    SELECT count(DISTINCT token) FILTER (WHERE mailed_at > now() - interval '15 minutes'), count(DISTINCT token)
      INTO lately, today
      FROM (
           SELECT token, created_at
             FROM deliveries
            WHERE account = owner AND action = 'password_recovery' AND outcome IN ('sent', 'unconfirmed')
              AND created_at > now() - interval '1 day'
            UNION ALL
           SELECT held.token, batches.claimed_at
             FROM batches
            CROSS JOIN LATERAL unnest(batches.tokens) AS held (token)
            WHERE batches.action = 'password_recovery'
              AND owner = (SELECT account FROM tokens WHERE id = held.token)
           ) AS mailed (token, mailed_at)
     WHERE token <> own;
    RETURN lately < per_15_minutes AND today < per_day;
END $$;
COMMENT ON FUNCTION recovery_fits IS
    'Whether an account may get another recovery mail; no other claim can take one of it until this transaction ends.';
GRANT EXECUTE ON FUNCTION recovery_fits TO PUBLIC;
"""


def upgrade() -> None:
    make_index()
    for statements in (FENCES, LOCKS, FITS):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP INDEX deliveries_accepted_late_idx")
    op.execute(FITS_BEFORE)
    op.execute("DROP TABLE locks")
    op.execute(NO_FENCES)


def make_index() -> None:
    """Make the index while others write; first of all, since what is outside of a transaction may be done twice.

    What an attempt before left unfinished is made again. Of a history in partitions PostgreSQL makes one under a lock.
    """
    schema, is_partitioned, is_valid = op.get_bind().exec_driver_sql(FOUND).one()
    words = LATE.format(schema=schema)
    if is_partitioned:
        op.execute(f"CREATE INDEX IF NOT EXISTS {words}")
    elif not is_valid:
        with op.get_context().autocommit_block():
            log.info("building an index, which waits for the transactions that are open now")
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.deliveries_accepted_late_idx")
            op.execute(f"CREATE INDEX CONCURRENTLY {words}")
