-- Say at which revision the database is.
--
-- Returns one row; none if it is at no revision. Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.revision()
    RETURNS TABLE (
        revision text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT CAST(version_num AS text) FROM mailroom_alembic_version;
END $$;
