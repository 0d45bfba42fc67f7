-- See whether rows were brought in, and the sequences of their ids were not.
--
-- Returns the name of each table whose next ids it already has.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.doctor_sequences()
    RETURNS TABLE (
        behind text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT name
      FROM (VALUES ('accounts', (SELECT max(id) FROM accounts)), ('tokens', (SELECT max(id) FROM tokens)),
                   ('batches', (SELECT max(id) FROM batches)), ('deliveries', (SELECT max(id) FROM deliveries))
           ) AS filled (name, highest)
     WHERE highest > coalesce(pg_sequence_last_value(CAST(pg_get_serial_sequence(name, 'id') AS regclass)), 0);
END $$;
