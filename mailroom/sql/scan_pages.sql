-- Say how many pages jobs has, and the moment before which no job is still about to commit.
--
-- Arguments: slack (an interval: how long a commit may take).
--
-- Returns one row. Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.scan_pages(
    slack interval
)
    RETURNS TABLE (
        pages bigint, moment timestamptz
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT pg_relation_size('jobs') / current_setting('block_size')::bigint AS pages, now() - scan_pages.slack AS moment;
END $$;
