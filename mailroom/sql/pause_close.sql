-- End a pause.
--
-- Arguments: scope; by_hand (a boolean: whether a person ends it; a pause that was made by hand ends in no other way).
--
-- When a person ended it is kept: what happened before that does not pause it again.
--
-- Returns the scope, or no row if there is no such pause.
--
-- Locks: when it was last ended by hand, then the pause.
CREATE OR REPLACE FUNCTION mailroom.pause_close(
    scope text, by_hand boolean
)
    RETURNS TABLE (
        closed text
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF pause_close.by_hand THEN
        INSERT INTO resumptions (scope, resumed_at)
        SELECT scope, clock_timestamp() FROM pauses WHERE scope = pause_close.scope
        ON CONFLICT (scope) DO UPDATE SET resumed_at = excluded.resumed_at;
    END IF;
    RETURN QUERY
    DELETE FROM pauses
     WHERE scope = pause_close.scope AND (pause_close.by_hand OR probe_at IS NOT NULL)
    RETURNING scope;
END $$;
