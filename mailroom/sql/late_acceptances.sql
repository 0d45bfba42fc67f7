-- Act on acceptances that came after their batch had been rescued. What is held and was accepted is due, so that the next
-- claim ends it as sent; what had failed and was accepted was sent.
--
-- Arguments: horizon (an interval: how old an acceptance may be), most (how many jobs, and how many failures, at a time).
--
-- Only this sweep does so, from the record, whatever came first: a settlement that is told twice, or told beside a rescue,
-- decides nothing. A failure that an operator has taken back, or takes back at this moment, is left to its new job.
--
-- Returns one row: how many were freed, and how many became sent.
--
-- Locks: jobs that are held, by token, then deliveries by id, skipping what others hold: the next sweep sees those.
--
-- Plan: made anew each time. One that is kept from a time when there was next to nothing walks over all there is.
CREATE OR REPLACE FUNCTION mailroom.late_acceptances(
    horizon interval, most integer
)
    RETURNS TABLE (
        freed bigint, amended bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH accepted AS MATERIALIZED (
        SELECT DISTINCT ON (deliveries.token) deliveries.token, batch, fence, message_id
          FROM deliveries
         CROSS JOIN LATERAL (SELECT secret FROM tokens WHERE id = deliveries.token LIMIT 1) AS mailed
         WHERE late AND outcome = 'sent' AND created_at > now() - late_acceptances.horizon
           AND (proof IS NULL OR proof = substring(sha256(mailed.secret) FOR 8))
         ORDER BY deliveries.token, created_at
    ),
    held AS MATERIALIZED (
        SELECT token
          FROM jobs
         WHERE token = ANY (ARRAY(SELECT token FROM accepted)) AND due_at = 'infinity'
         ORDER BY token
         LIMIT late_acceptances.most
           FOR UPDATE SKIP LOCKED
    ),
    freed AS (
        UPDATE jobs SET due_at = clock_timestamp() FROM held WHERE jobs.token = held.token
        RETURNING jobs.token
    ),
    failed AS MATERIALIZED (
        SELECT id
          FROM deliveries
         WHERE token = ANY (ARRAY(SELECT token FROM accepted))
           AND outcome = 'failed' AND NOT late AND retried_at IS NULL
         ORDER BY id
         LIMIT late_acceptances.most
           FOR UPDATE SKIP LOCKED
    ),
    taken_back AS (
        UPDATE deliveries SET retried_at = clock_timestamp() FROM failed
         WHERE deliveries.id = failed.id
        RETURNING deliveries.token, deliveries.account, deliveries.action, deliveries.attempt
    ),
    amended AS (
        INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, limited, message_id, error_code)
        SELECT token, account, batch, fence, action, 'sent', attempt,
               coalesce((SELECT limited FROM actions WHERE name = taken_back.action), false), message_id, 'AcceptedLate'
          FROM taken_back
          JOIN accepted USING (token)
        RETURNING token
    )
    SELECT (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM amended) AS amended;
END $$;
