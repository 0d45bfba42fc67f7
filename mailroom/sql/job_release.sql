-- Let jobs that are held be sent again: they are due now.
--
-- Arguments: tokens (an array).
--
-- Returns the token of each job. The claim still ends one that SES is known to have taken meanwhile.
--
-- Locks: jobs by token. Of several it passes over what others hold; it waits for who holds the one that is asked for alone.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.job_release(
    tokens bigint[]
)
    RETURNS TABLE (
        token bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF cardinality(job_release.tokens) = 1 THEN
        PERFORM FROM jobs WHERE token = ANY (job_release.tokens) AND due_at = 'infinity' FOR UPDATE;
    END IF;
    RETURN QUERY
    WITH held AS MATERIALIZED (
        SELECT token
          FROM jobs
         WHERE token = ANY (job_release.tokens) AND due_at = 'infinity'
         ORDER BY token
           FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs SET due_at = clock_timestamp() FROM held WHERE jobs.token = held.token
    RETURNING jobs.token;
END $$;
