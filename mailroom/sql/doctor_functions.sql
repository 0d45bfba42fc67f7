-- See which of these functions there are beside the tables, and whether their search_path is as it must be.
--
-- Each must look for tables in that schema, and only then among the temporary ones. If several have one name, and
-- differ in their arguments, ours is the one that counts.
--
-- Arguments: functions (an array of names).
--
-- Returns a row for each: its name, whether it is pinned, and the search_path that it should have.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.doctor_functions(
    functions text[]
)
    RETURNS TABLE (
        name text, path text, pinned boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET quote_all_identifiers = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT DISTINCT ON (proname)
           CAST(proname AS text) AS name, home.path,
           EXISTS (SELECT FROM unnest(proconfig) AS setting WHERE setting = 'search_path=' || home.path) AS pinned
      FROM pg_proc
      JOIN (SELECT relnamespace AS id, quote_ident(nspname) || ', pg_temp' AS path
              FROM pg_class
              JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE pg_class.oid = 'tokens'::regclass) AS home ON home.id = pronamespace
     WHERE proname = ANY (CAST(doctor_functions.functions AS name[]))
     ORDER BY proname, obj_description(pg_proc.oid, 'pg_proc') LIKE 'mailroom: %' IS TRUE DESC;
END $$;
