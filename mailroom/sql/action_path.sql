-- Say what the links of an action are signed with: its path, and whether it has a code.
--
-- Returns a row; none if there is no such action. Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.action_path(
    wanted_action text
)
    RETURNS TABLE (
        path text, has_code boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT path, has_code FROM actions WHERE name = action_path.wanted_action;
END $$;
