-- Say which site this is: the name of this database in the tags of its mails.
--
-- Returns one row. Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.site()
    RETURNS TABLE (
        id uuid
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT site.id FROM site;
END $$;
