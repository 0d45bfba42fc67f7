-- Say after which id the newest batches come.
--
-- Whoever looks for what is in flight then need not walk over all batches that are done: their rows are dead, and stay
-- as long as an old snapshot does.
--
-- What is in flight is nearly always among the newest 25,000, and nobody may rely on that: whoever must find each batch
-- looks at all of them as well, where that is seldom.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.batches_newest()
    RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    RETURN coalesce(pg_sequence_last_value(CAST(pg_get_serial_sequence('batches', 'id') AS regclass)), 0) - 25000;
END $$;
