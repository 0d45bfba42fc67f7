-- See which tables have not as many rows as must be there: migrations make these, and nothing else makes them again.
--
-- Returns a row for each such table: its name, how many rows there are, and how many there are to be.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.rows_astray()
    RETURNS TABLE (
        name text, there bigint, wanted integer
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT counted.name, counted.there, counted.wanted
      FROM (VALUES ('feed', (SELECT count(*) FROM feed), 1), ('permits', (SELECT count(*) FROM permits), 2),
                   ('readings', (SELECT count(*) FROM readings), 1),
                   ('ses_account', (SELECT count(*) FROM ses_account), 1), ('site', (SELECT count(*) FROM site), 1)
           ) AS counted (name, there, wanted)
     WHERE counted.there <> counted.wanted
     ORDER BY counted.name;
END $$;
