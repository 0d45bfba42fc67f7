-- See how many ids are left to each column here that a sequence fills.
--
-- Returns a row for each: its table, the sequence as SQL names it anywhere, how many ids are left, and whether it counts
-- as far as a sequence can. Nothing of a sequence that the owner of these functions may not read.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.doctor_ids()
    RETURNS TABLE (
        home text, sequence text, remaining numeric, is_widest boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT filled.relname::text, format('%I.%I', nspname, counter.relname),
           trunc(CASE WHEN seqincrement > 0 THEN CAST(seqmax AS numeric) - coalesce(last, seqmin)
                      ELSE CAST(coalesce(last, seqmax) AS numeric) - seqmin END / abs(CAST(seqincrement AS numeric))),
           seqincrement > 0 AND seqmax = 9223372036854775807
      FROM pg_class AS filled
      JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = filled.oid AND refobjsubid > 0
                    AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
      JOIN pg_class AS counter ON counter.oid = objid AND counter.relkind = 'S'
      JOIN pg_namespace ON pg_namespace.oid = counter.relnamespace
      JOIN pg_sequence ON seqrelid = counter.oid
     CROSS JOIN LATERAL (
           SELECT CASE WHEN has_sequence_privilege(counter.oid, 'USAGE, SELECT') THEN pg_sequence_last_value(counter.oid) END
                  AS last) AS counted
     WHERE filled.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
     ORDER BY 1, 2;
END $$;
