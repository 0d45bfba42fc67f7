-- Say which kinds of mail there are.
--
-- Returns a row for each, by number. An interval is given in seconds: a setting of a session could make it unreadable.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.action_list()
    RETURNS TABLE (
        name text, number smallint, template text, path text, life_seconds double precision, has_code boolean,
        priority smallint, needs text, renews boolean, newest_only boolean, per_15_minutes integer, per_day integer,
        activates boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT CAST(name AS text), number, template, path, CAST(extract(epoch FROM life) AS double precision), has_code,
           priority, CAST(needs AS text), renews, newest_only, per_15_minutes, per_day, activates
      FROM actions
     ORDER BY number;
END $$;
