-- Say by which scope the lane of a priority is paused when less urgent mail must not be sent.
--
-- A job in quarantine is as urgent as its action, but it never counts as bulk.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.lane_scope(
    priority smallint, action text
)
    RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN 'priority:' || CASE WHEN lane_scope.priority < 3 THEN lane_scope.priority
                               ELSE least(1, (SELECT actions.priority FROM actions WHERE name = lane_scope.action)) END;
END $$;
