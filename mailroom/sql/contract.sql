-- Say which releases of mailroom can work on this database: those that call one of these versions of its functions.
--
-- A function whose arguments or result change gets a new name, and the old one stays for one release: so the release before
-- works on the database of this one. It is raised with a migration: newest by one, when a function is added that the code
-- then calls; oldest, when one is taken away that older code calls. See CONTRACT in db/engine.py.
--
-- Returns one row. Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.contract()
    RETURNS TABLE (
        oldest integer, newest integer
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT 1, 5;
END $$;
