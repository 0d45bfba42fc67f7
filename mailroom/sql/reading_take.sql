-- Take the turn to count for the whole fleet.
--
-- For workers of the release before alone: see reading_refresh.
--
-- Arguments: every (an interval: when the next is due, unless this one says otherwise), and longest (the longest that it is
-- ever put off for).
--
-- Returns one row: whether the turn was taken. Whoever dies over it need do nothing: the next is due all the same. What is
-- due later than it ever is put off to is due now: the clock was set back.
--
-- Locks: the reading, unless somebody else has it: then it is theirs.
CREATE OR REPLACE FUNCTION mailroom.reading_take(
    every interval, longest interval
)
    RETURNS TABLE (
        taken boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM readings
      WHERE due_at <= clock_timestamp() OR due_at > clock_timestamp() + reading_take.longest
        FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE readings SET due_at = clock_timestamp() + reading_take.every;
    END IF;
    RETURN QUERY SELECT FOUND;
END $$;
