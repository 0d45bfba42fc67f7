"""Limits on what a stranger can cause: recovery mails to an account, and guesses at the code of a recovery."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# What the claim asks of a recovery: is there a newer one, and how many have been mailed? Both indexes are partial, so
# activations never touch them, nor do the rows of recoveries that were cancelled, however many there are.
RECOVERIES = """
CREATE INDEX tokens_recovery_idx ON tokens (account, id) WHERE action = 'password_recovery';

CREATE INDEX deliveries_recovery_idx ON deliveries (account, created_at)
    WHERE action = 'password_recovery' AND outcome IN ('sent', 'unconfirmed');
"""

# The lock: two claims at once would not see each other's batches. It is the transaction's, and waits for another claim
# of the same account to commit. VOLATILE: what is read after the lock is read in a new snapshot.
# A mail that may have gone out twice is one mail: its copies are not the account's doing. `own` is not counted, or a
# mail whose fate is unknown would stand in its own way.
# Few mails are in flight, and an account may have a million tokens: hence the subquery, which cannot become a join.
# enable_seqscan: PL/pgSQL keeps its plans, and one made on empty tables must not meet full ones.
FITS = """
CREATE FUNCTION recovery_fits(owner bigint, own bigint, per_15_minutes integer, per_day integer) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
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
"""


def upgrade() -> None:
    for statements in (RECOVERIES, FITS):
        op.execute(statements)


def downgrade() -> None:
    op.execute(
        """
        DROP FUNCTION recovery_fits;
        DROP INDEX deliveries_recovery_idx, tokens_recovery_idx;
        """
    )
