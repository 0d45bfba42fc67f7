-- See the first job of each lane of a queue among those that lie in some pages of the table, and are due by a moment.
--
-- Arguments: queue, first and last (tids: from here, to before there), moment.
--
-- For where a walk along the claim index takes too long, since nearly all of what it passes is dead: so much of it as
-- lies in a page can always be looked at.
--
-- Returns a row for each lane with a job: priority, action, due_at and token.
--
-- Locks: nothing. Plan: by place. No index is to serve: hence the operator on queue.
CREATE OR REPLACE FUNCTION mailroom.scan_walk(
    queue text, first tid, last tid, moment timestamptz
)
    RETURNS TABLE (
        priority smallint, action text, due_at timestamptz, token bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT DISTINCT ON (priority, action) priority, CAST(action AS text), due_at, token
      FROM jobs
     WHERE ctid >= scan_walk.first AND ctid < scan_walk.last
       AND queue || '' = scan_walk.queue AND due_at <= scan_walk.moment
     ORDER BY priority, action, due_at, token;
END $$;
