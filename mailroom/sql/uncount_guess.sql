-- Take back the count of a guess at the code of a token, of which nobody has learnt anything.
--
-- Others were in the way of the transaction that was to compare it, and that is tried again. It stands once it is committed.
--
-- Arguments: wanted_secret. Call it once for a guess that count_guess has counted, and only where consume_token has failed
-- with a serialization_failure, or a deadlock: whoever guesses must not have an answer.
--
-- Returns whether one was taken back.
--
-- Locks: the row of guesses, and waits for it no longer than count_guess does.
CREATE OR REPLACE FUNCTION mailroom.uncount_guess(
    wanted_secret bytea
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET lock_timeout = '5s' AS $$
#variable_conflict use_column
BEGIN
    UPDATE guesses SET made = made - 1
     WHERE token = (SELECT id FROM tokens WHERE secret = uncount_guess.wanted_secret) AND made > 0;
    RETURN FOUND;
EXCEPTION
    WHEN transaction_rollback OR lock_not_available THEN
        RETURN false;
END $$;
