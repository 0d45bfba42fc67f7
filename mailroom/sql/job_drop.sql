-- Take waiting jobs out of the queue, for good: they are cancelled, and on record as dropped.
--
-- Arguments: tokens (an array).
--
-- Returns the token of each job. What is in flight or finished is left as it is.
--
-- Locks: jobs by token. Of several it passes over what others hold; it waits for who holds the one that is asked for alone.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.job_drop(
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
    IF cardinality(job_drop.tokens) = 1 THEN
        PERFORM FROM jobs WHERE token = ANY (job_drop.tokens) FOR UPDATE;
    END IF;
    RETURN QUERY
    WITH waiting AS MATERIALIZED (
        SELECT token FROM jobs WHERE token = ANY (job_drop.tokens) ORDER BY token FOR UPDATE SKIP LOCKED
    ),
    taken AS (
        DELETE FROM jobs USING waiting WHERE jobs.token = waiting.token
        RETURNING jobs.token, jobs.action, jobs.attempt
    )
    INSERT INTO deliveries (token, account, action, outcome, attempt, error_code, error)
    SELECT taken.token, tokens.account, taken.action, 'cancelled', taken.attempt, 'Dropped', 'taken out by an operator'
      FROM taken
      LEFT JOIN tokens ON tokens.id = taken.token
    RETURNING token;
END $$;
