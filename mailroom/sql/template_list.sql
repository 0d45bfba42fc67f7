-- Say which templates were pushed, and which are used.
--
-- Returns a row for each, the newest first; and one without languages for each that an action uses and nobody pushed.
-- `uses`: the actions that use it.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.template_list()
    RETURNS TABLE (
        name text, action text, languages text[], default_language text, created_at timestamptz, uses text[]
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH used AS (
        SELECT template, array_agg(CAST(actions.name AS text) ORDER BY number) AS by FROM actions GROUP BY template
    )
    SELECT coalesce(templates.name, used.template), coalesce(CAST(templates.action AS text), used.by[1]),
           templates.languages, templates.default_language, templates.created_at, coalesce(used.by, '{}')
      FROM templates
      FULL JOIN used ON used.template = templates.name
     ORDER BY templates.created_at DESC NULLS LAST, 1;
END $$;
