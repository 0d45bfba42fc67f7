-- Put finished jobs back that were not sent, and make jobs due now that wait for later.
--
-- A job that is held (due never) may be out already. It stays as it is: a person decides about it.
--
-- Arguments: tokens (an array), queue (which a job that is put back goes to, whichever it was in).
--
-- The fence is the final delivery: who locks it and finds it unmarked puts the job back, so two retries put back one.
-- The job counts as tried: the claim looks for a late acceptance, and does not wait for a batch to fill. A token that
-- is gone or consumed, or that SES is known to have taken after all (and that is not contradicted, see never_out),
-- stays as it is.
--
-- Returns a row for each job: its token, and whether it had been finished.
--
-- Locks: jobs by token, then deliveries by id. Of several it passes over what others hold; it waits for who holds the one
-- that is asked for alone.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.job_retry(
    tokens bigint[], queue text
)
    RETURNS TABLE (
        token bigint, was_finished boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF cardinality(job_retry.tokens) = 1 THEN
        PERFORM FROM jobs WHERE token = ANY (job_retry.tokens) AND due_at < 'infinity' FOR UPDATE;
        PERFORM
           FROM deliveries
          WHERE token = ANY (job_retry.tokens) AND NOT late AND retried_at IS NULL
            AND outcome NOT IN ('sent', 'deferred', 'unconfirmed')
          ORDER BY id
            FOR UPDATE;
    END IF;
    RETURN QUERY
    WITH waiting AS MATERIALIZED (
        SELECT token
          FROM jobs
         WHERE token = ANY (job_retry.tokens) AND due_at < 'infinity'
         ORDER BY token
           FOR UPDATE SKIP LOCKED
    ),
    hastened AS (
        UPDATE jobs SET due_at = least(due_at, clock_timestamp()) FROM waiting WHERE jobs.token = waiting.token
        RETURNING jobs.token
    ),
    finished AS MATERIALIZED (
        SELECT deliveries.id
          FROM deliveries
          JOIN tokens ON tokens.id = deliveries.token AND tokens.consumed_at IS NULL
          JOIN actions ON actions.name = deliveries.action
         WHERE deliveries.token = ANY (job_retry.tokens)
           AND deliveries.outcome NOT IN ('sent', 'deferred', 'unconfirmed')
           AND NOT deliveries.late AND deliveries.retried_at IS NULL
           AND NOT EXISTS (
               SELECT FROM deliveries AS taken
                WHERE taken.token = deliveries.token AND taken.outcome = 'sent' AND NOT never_out(taken.message_id))
         ORDER BY deliveries.id
           FOR UPDATE OF deliveries SKIP LOCKED
    ),
    revived AS (
        UPDATE deliveries SET retried_at = clock_timestamp() FROM finished
         WHERE deliveries.id = finished.id
        RETURNING deliveries.token, deliveries.action
    ),
    again AS (
        INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
        SELECT one.token, clock_timestamp(), one.action,
               CASE WHEN actions.priority = 1
                         AND 50 < (SELECT count(*) FROM revived JOIN actions ON actions.name = revived.action
                                    WHERE actions.priority = 1) THEN 2
                    ELSE actions.priority END,
               1, job_retry.queue
          FROM (SELECT DISTINCT ON (token) * FROM revived ORDER BY token) AS one
          JOIN actions ON actions.name = one.action
        ON CONFLICT (token) DO NOTHING  -- somebody has put it back by hand
        RETURNING token
    )
    SELECT token, false AS was_finished FROM hastened
    UNION ALL
    SELECT token, true FROM again
    ORDER BY token;
END $$;
