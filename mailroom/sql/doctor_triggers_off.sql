-- See for whom mailroom.triggers is off by default in this database.
--
-- That setting is for one session, while rows are restored. Here somebody has left it.
--
-- Returns a row for each: the role, or everybody.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.doctor_triggers_off()
    RETURNS TABLE (
        who text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT CASE setrole WHEN 0 THEN 'everybody' ELSE 'role ' || pg_get_userbyid(setrole) END
           || CASE setdatabase WHEN 0 THEN ' in all databases' ELSE '' END AS who
      FROM pg_db_role_setting
     CROSS JOIN LATERAL unnest(setconfig) AS set_to
     WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
       AND lower(split_part(set_to, '=', 1)) = 'mailroom.triggers'
       AND split_part(set_to, '=', 2) ~* '^\s*(f(a(l(se?)?)?)?|no?|off?|0)\s*$'  -- as PostgreSQL reads a boolean
     ORDER BY 1;
END $$;
