-- Keep it on record that counting for the whole fleet has failed. What was counted before stays.
--
-- Arguments: failure (of which class), and due_after (an interval: when the next is due).
--
-- Locks: the reading.
CREATE OR REPLACE FUNCTION mailroom.reading_failed(
    failure text, due_after interval
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    UPDATE readings
       SET failed_at = clock_timestamp(), failure = reading_failed.failure,
           due_at = clock_timestamp() + reading_failed.due_after;
END $$;
