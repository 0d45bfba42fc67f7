-- See of which actions there are jobs but no row.
--
-- No worker takes such jobs. They were restored, and the row was not.
--
-- Returns the name of each. Locks: nothing. It goes from lane to lane along the claim's index.
CREATE OR REPLACE FUNCTION mailroom.doctor_actions()
    RETURNS TABLE (
        unknown text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE lane AS (
        (SELECT queue, priority, action FROM jobs ORDER BY queue, priority, action LIMIT 1)
        UNION ALL
        SELECT next.queue, next.priority, next.action
          FROM lane
         CROSS JOIN LATERAL (
               SELECT queue, priority, action
                 FROM jobs
                WHERE (queue, priority, action) > (lane.queue, lane.priority, lane.action)
                ORDER BY queue, priority, action
                LIMIT 1) AS next
    )
    SELECT DISTINCT CAST(action AS text) FROM lane WHERE action NOT IN (SELECT name FROM actions) ORDER BY 1;
END $$;
