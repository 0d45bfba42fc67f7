-- Say in which lanes there are jobs, due or not, held or not.
--
-- Arguments: of_queue (NULL: all).
--
-- Returns a row for each: queue, priority and action.
--
-- Locks: nothing.
--
-- Plan: pinned. It goes from queue to queue by index, and looks at the first job of each lane that there may be.
CREATE OR REPLACE FUNCTION mailroom.browse_lanes(
    of_queue text
)
    RETURNS TABLE (
        queue text, priority smallint, action text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE known AS (
        SELECT min(queue) AS name FROM jobs WHERE browse_lanes.of_queue IS NULL
        UNION ALL
        SELECT (SELECT min(queue) FROM jobs WHERE queue > known.name) FROM known WHERE known.name IS NOT NULL
    ),
    lane AS (
        SELECT coalesce(browse_lanes.of_queue, known.name) AS queue, CAST(of.priority AS smallint) AS priority, actions.name AS action
          FROM known, generate_series(0, 3) AS of (priority), actions
         WHERE coalesce(browse_lanes.of_queue, known.name) IS NOT NULL
    )
    SELECT lane.queue, lane.priority, CAST(lane.action AS text)
      FROM lane
     CROSS JOIN LATERAL (
           SELECT FROM jobs
            WHERE jobs.queue = lane.queue AND jobs.priority = lane.priority AND jobs.action = lane.action
            ORDER BY due_at, token
            LIMIT 1) AS first
     ORDER BY lane.queue, lane.priority, lane.action;
END $$;
