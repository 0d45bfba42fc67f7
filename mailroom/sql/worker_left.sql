-- Take note that a worker has stopped, in order.
--
-- Arguments: name, by which it was seen.
--
-- Locks: its row.
CREATE OR REPLACE FUNCTION mailroom.worker_left(
    name text
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM workers WHERE name = worker_left.name;
END $$;
