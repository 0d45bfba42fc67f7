-- See which of these triggers there are on the tables of this schema, and whether they work.
--
-- A trigger works if it fires, and calls its function: the one of its name, or the one that all tables share whose rows
-- must be there.
--
-- Arguments: triggers (an array of names).
--
-- Returns a row for each: its name, whether it fires, and whether it calls its function.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.doctor_triggers(
    triggers text[]
)
    RETURNS TABLE (
        name text, enabled boolean, calls_its_function boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    kept regclass[] := ARRAY['feed', 'permits', 'readings', 'ses_account', 'site'];
BEGIN
    RETURN QUERY
    SELECT CAST(tgname AS text) AS name, tgenabled IN ('O', 'A') AS enabled,
           proname = CASE WHEN tgrelid = ANY (kept) THEN 'rows_stay' ELSE tgname END AS calls_its_function
      FROM pg_trigger
      JOIN pg_proc ON pg_proc.oid = tgfoid
     WHERE tgrelid = ANY (kept || CAST(ARRAY['actions', 'accounts', 'tokens'] AS regclass[])) AND NOT tgisinternal
       AND tgname = ANY (CAST(doctor_triggers.triggers AS name[]));
END $$;
