-- Keep what was counted for the whole fleet, or that it could not be.
--
-- For workers of the release before alone: see reading_refresh.
--
-- Arguments: read_at (when it was so); counted (NULL: it failed, and what there was stays); failure (of which class), and
-- due_after (an interval: when the next is due).
--
-- Whoever was held up for long does not put an old reading in the place of a newer one. One that is ahead was made before
-- the clock was set back.
--
-- Locks: the reading.
CREATE OR REPLACE FUNCTION mailroom.reading_keep(
    read_at timestamptz, counted json, failure text, due_after interval
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF reading_keep.counted IS NULL THEN
        UPDATE readings
           SET failed_at = clock_timestamp(), failure = reading_keep.failure,
               due_at = clock_timestamp() + reading_keep.due_after;
    ELSE
        UPDATE readings
           SET read_at = reading_keep.read_at, found = reading_keep.counted, failed_at = NULL, failure = '',
               due_at = clock_timestamp() + reading_keep.due_after
         WHERE readings.read_at IS NULL OR readings.read_at < reading_keep.read_at OR readings.read_at > clock_timestamp();
    END IF;
END $$;
