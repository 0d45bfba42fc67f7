-- Trigger: forget the queue and the log of tokens that are truncated, and what SES told of them.
--
-- Ids may begin again: whatever names one would be taken for a later token's, also the log, which counts against limits.
-- DELETE, not TRUNCATE: it waits for no worker, and none waits for it.
CREATE OR REPLACE FUNCTION mailroom.forget_truncated()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    DELETE FROM jobs;
    DELETE FROM batches;
    DELETE FROM deliveries;
    DELETE FROM events WHERE token IS NOT NULL;
    RETURN NULL;
END $$;
