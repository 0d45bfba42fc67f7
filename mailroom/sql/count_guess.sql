-- Count a guess at the code of a token. It counts once it is committed.
--
-- Also of one that cannot be consumed now, by what its account is at this moment: another transaction, which is not
-- committed, may be changing that, and guess.
--
-- Returns false if none is left, or there is nothing to guess at; NULL if somebody else was in the way, and nothing was
-- counted: no guess either.
--
-- Locks: the row of guesses. The lock_timeout ends a wait that nobody else would see to be a deadlock: for a caller who
-- counts beside a transaction of its own.
CREATE OR REPLACE FUNCTION mailroom.count_guess(
    wanted_secret bytea
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET lock_timeout = '5s' AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO guesses (token, made)
    SELECT id, 1
      FROM tokens
     WHERE secret = count_guess.wanted_secret AND consumed_at IS NULL AND expires_at > clock_timestamp()
       AND (SELECT has_code FROM actions WHERE name = tokens.action)
    ON CONFLICT (token) DO UPDATE SET made = guesses.made + 1 WHERE guesses.made < most_guesses();
    RETURN FOUND;
EXCEPTION
    WHEN transaction_rollback OR integrity_constraint_violation OR lock_not_available THEN
        RETURN NULL;
END $$;
