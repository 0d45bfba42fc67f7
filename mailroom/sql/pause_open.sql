-- Pause a scope.
--
-- Arguments: scope; code and reason (why); probe_after (an interval: when the first probe is due; NULL: none ever is, and
-- the pause ends by hand, also where the scope was paused before with probes).
--
-- Returns the scope, or no row if it is paused already.
--
-- Locks: the pause, where there is one and it is made to end by hand.
CREATE OR REPLACE FUNCTION mailroom.pause_open(
    scope text, code text, reason text, probe_after interval
)
    RETURNS TABLE (
        opened text
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF pause_open.probe_after IS NULL THEN
        RETURN QUERY
        INSERT INTO pauses (scope, code, reason)
        VALUES (pause_open.scope, pause_open.code, pause_open.reason)
        ON CONFLICT (scope) DO UPDATE SET code = excluded.code, reason = excluded.reason, probe_at = NULL
        RETURNING scope;
    ELSE
        RETURN QUERY
        INSERT INTO pauses (scope, code, reason, probe_at)
        VALUES (pause_open.scope, pause_open.code, pause_open.reason, clock_timestamp() + pause_open.probe_after)
        ON CONFLICT (scope) DO NOTHING
        RETURNING scope;
    END IF;
END $$;
