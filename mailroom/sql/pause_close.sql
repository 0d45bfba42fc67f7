-- End a pause.
--
-- Arguments: scope; by_hand (a boolean: whether a person ends it; a pause that was made by hand ends in no other way).
--
-- Returns the scope, or no row if there is no such pause.
--
-- Locks: the pause.
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
    RETURN QUERY
    DELETE FROM pauses
     WHERE scope = pause_close.scope AND (pause_close.by_hand OR probe_at IS NOT NULL)
    RETURNING scope;
END $$;
