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
# enable_seqscan: PL/pgSQL keeps its plans, and one made on empty tables must not meet full ones. jit: before PostgreSQL
# 18 that makes batches, which can only be scanned, look so dear that the plan is compiled, for a tenth of a second.
FITS = """
CREATE FUNCTION recovery_fits(owner bigint, own bigint, per_15_minutes integer, per_day integer) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off SET jit = off AS $$
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

# Five digits do not stand many guesses. They are counted in a table of their own, not in tokens: whoever counts in a
# transaction beside its main one must not wait for a lock that the main one has on the token, nor change a row under
# its snapshot. The lock_timeout ends what would still be such a wait, since nobody else would see that deadlock.
GUESSES = """
CREATE FUNCTION most_guesses() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 5;

CREATE TABLE guesses (
    token bigint   PRIMARY KEY REFERENCES tokens ON DELETE CASCADE,
    made  smallint NOT NULL
);

CREATE FUNCTION guesses_left(wanted_secret bytea) RETURNS integer
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT most_guesses() - coalesce(made, 0)
      FROM tokens
      LEFT JOIN guesses ON guesses.token = tokens.id
     WHERE secret = wanted_secret AND action = 'password_recovery'
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
$$;
COMMENT ON FUNCTION guesses_left IS
    'How many guesses a recovery has left; NULL if there is no such recovery, or it has expired or been consumed.';

CREATE FUNCTION count_guess(wanted_secret bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '5s' AS $$
BEGIN
    INSERT INTO guesses (token, made)
    SELECT id, 1
      FROM tokens
     WHERE secret = wanted_secret AND action = 'password_recovery'
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
    ON CONFLICT (token) DO UPDATE SET made = guesses.made + 1 WHERE guesses.made < most_guesses();
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION count_guess IS
    'Counts a guess at the code of a recovery; false if none is left, or there is no such recovery to guess at.';
"""

# The account's row is locked first: deleting an account locks it before its tokens, so both go the same way round.
# clock_timestamp(): the wait for that lock may outlast the token. SECURITY DEFINER: whoever may consume needs no right
# on tokens. Nobody may by default.
CONSUME = """
DROP FUNCTION consume_token(bytea, token_action, text);
CREATE FUNCTION consume_token(
    wanted_secret bytea, wanted_action token_action, given_code text DEFAULT NULL, counted boolean DEFAULT false
)
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    owner bigint;
BEGIN
    PERFORM 1 FROM accounts
      WHERE id = (SELECT account FROM tokens WHERE secret = wanted_secret) FOR NO KEY UPDATE;
    IF wanted_action = 'password_recovery' AND NOT counted AND NOT count_guess(wanted_secret) THEN
        RETURN NULL;
    END IF;
    UPDATE tokens SET consumed_at = clock_timestamp()
     WHERE secret = wanted_secret AND action = wanted_action
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
       AND (action = 'activation' OR code = given_code)
    RETURNING account INTO owner;
    RETURN owner;
END $$;
COMMENT ON FUNCTION consume_token IS
    'Marks an unexpired, unconsumed token consumed and returns its account, or NULL. A recovery needs its code, and'
    ' this is a guess at it, which counts once it is committed: commit also after NULL. counted: count_guess was'
    ' called for it, and committed.';

REVOKE EXECUTE ON FUNCTION guesses_left, count_guess, consume_token FROM PUBLIC;
"""

CONSUME_BEFORE = """
DROP FUNCTION consume_token;
CREATE FUNCTION consume_token(wanted_secret bytea, wanted_action token_action, given_code text DEFAULT NULL)
    RETURNS bigint LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    owner bigint;
BEGIN
    PERFORM 1 FROM accounts
      WHERE id = (SELECT account FROM tokens WHERE secret = wanted_secret) FOR NO KEY UPDATE;
    UPDATE tokens SET consumed_at = clock_timestamp()
     WHERE secret = wanted_secret AND action = wanted_action
       AND consumed_at IS NULL AND expires_at > clock_timestamp()
       AND (action = 'activation' OR code = given_code)
    RETURNING account INTO owner;
    RETURN owner;
END $$;
COMMENT ON FUNCTION consume_token IS
    'Marks an unexpired, unconsumed token consumed and returns its account, or NULL. A recovery needs its code.';
"""


def upgrade() -> None:
    for statements in (RECOVERIES, FITS, GUESSES, CONSUME):
        op.execute(statements)


def downgrade() -> None:
    op.execute(CONSUME_BEFORE)
    op.execute(
        """
        DROP FUNCTION count_guess, guesses_left;
        DROP TABLE guesses;
        DROP FUNCTION most_guesses, recovery_fits;
        DROP INDEX deliveries_recovery_idx, tokens_recovery_idx;
        """
    )
