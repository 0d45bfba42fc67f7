-- Act on acceptances that came after their batch had been rescued. What is held and was accepted is due, so that the next
-- claim ends it as sent; what had failed, or was rejected in another call, and was accepted was sent. What is held, and of
-- which each call is known to have come to nothing, is due as well; and so is what can be mailed no more.
--
-- Arguments: horizon (an interval: how old a failure may be), most (how many held jobs, and how many failures, at a time);
-- held_after (a token) and failed_after (a moment): after which it goes on. NULL: all of them are looked at.
--
-- Only this sweep does so, from the record, whatever came first: a settlement that is told twice, or told beside a rescue,
-- decides nothing. A failure that an operator has taken back, or takes back at this moment, is left to its new job.
--
-- Returns one row: how many were freed, and how many became sent; and after which token and which moment there may be more
-- (NULL: there are no more).
--
-- Locks: jobs that are held, by token, then deliveries by id, skipping what others hold: the next sweep sees those.
--
-- Plan: made anew each time. One that is kept from a time when there was next to nothing walks over all there is.
CREATE OR REPLACE FUNCTION mailroom.late_acceptances(
    horizon interval, most integer, held_after bigint DEFAULT NULL, failed_after timestamptz DEFAULT NULL
)
    RETURNS TABLE (
        freed bigint, amended bigint, last_held bigint, last_failed timestamptz
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    -- It begins with what may change, which is little, and asks of each whether it was accepted: late acceptances may be many.
    WITH waiting AS MATERIALIZED (
        SELECT token
          FROM jobs
         WHERE due_at = 'infinity' AND (late_acceptances.held_after IS NULL OR token > late_acceptances.held_after)
         ORDER BY token
         LIMIT CASE WHEN late_acceptances.held_after IS NOT NULL THEN late_acceptances.most END
    ),
    unsent AS MATERIALIZED (  -- all of a moment, since the next begins after it
        SELECT token, id, created_at
          FROM deliveries
         WHERE outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL
           AND created_at > greatest(now() - late_acceptances.horizon, late_acceptances.failed_after)
         ORDER BY created_at
         FETCH FIRST (CASE WHEN late_acceptances.failed_after IS NULL THEN 9223372036854775807
                           ELSE late_acceptances.most END) ROWS WITH TIES
    ),
    candidate AS MATERIALIZED (
        SELECT token, NULL::bigint AS id, true AS is_held FROM waiting
        UNION ALL
        SELECT token, id, false FROM unsent
    ),
    accepted AS MATERIALIZED (
        SELECT candidate.token, candidate.id, candidate.is_held, late.batch, late.fence, late.message_id
          FROM candidate
         CROSS JOIN LATERAL (SELECT secret FROM tokens WHERE id = candidate.token LIMIT 1) AS mailed
         CROSS JOIN LATERAL (
               SELECT batch, fence, message_id
                 FROM deliveries
                WHERE deliveries.token = candidate.token AND outcome = 'sent' AND late
                  AND (proof IS NULL OR proof = substring(sha256(mailed.secret) FOR 8))
                  AND NOT never_out(message_id)
                ORDER BY id
                LIMIT 1) AS late
    ),
    -- What is held because it may be out, and is known not to be: each call that was made for it never went out.
    disproved AS MATERIALIZED (
        SELECT candidate.token
          FROM candidate
         WHERE is_held
           AND EXISTS (SELECT FROM events WHERE events.token = candidate.token AND kind = 'rendering_failure')
           AND NOT EXISTS (
               SELECT FROM deliveries
                WHERE deliveries.token = candidate.token AND outcome = 'unconfirmed'
                  AND NOT EXISTS (
                      SELECT FROM events AS told
                       WHERE told.token = deliveries.token AND told.fence = deliveries.fence
                         AND told.kind IN ('rendering_failure', 'reject')))
    ),
    -- Its token is gone, with its account or revoked, or its link was used: the claim ends it.
    ended AS MATERIALIZED (
        SELECT candidate.token
          FROM candidate
          LEFT JOIN LATERAL (SELECT id, consumed_at FROM tokens WHERE id = candidate.token LIMIT 1) AS mailed ON true
         WHERE is_held AND (mailed.id IS NULL OR mailed.consumed_at IS NOT NULL)
    ),
    held AS MATERIALIZED (
        SELECT token
          FROM jobs
         WHERE token = ANY (ARRAY(SELECT token FROM accepted WHERE is_held UNION SELECT token FROM disproved
                                  UNION SELECT token FROM ended))
           AND due_at = 'infinity'
         ORDER BY token
         LIMIT late_acceptances.most
           FOR UPDATE SKIP LOCKED
    ),
    freed AS (
        UPDATE jobs SET due_at = clock_timestamp() FROM held WHERE jobs.token = held.token
        RETURNING jobs.token
    ),
    failed AS MATERIALIZED (
        SELECT final.id
          FROM (SELECT id FROM accepted WHERE NOT is_held ORDER BY id) AS given
         CROSS JOIN LATERAL (
               SELECT id
                 FROM deliveries
                WHERE deliveries.id = given.id AND outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL
                LIMIT 1
                  FOR UPDATE SKIP LOCKED) AS final
         LIMIT late_acceptances.most
    ),
    taken_back AS (
        UPDATE deliveries SET retried_at = clock_timestamp() FROM failed
         WHERE deliveries.id = failed.id
        RETURNING deliveries.token, deliveries.account, deliveries.action, deliveries.attempt, deliveries.queue,
                  deliveries.priority
    ),
    amended AS (
        INSERT INTO deliveries (token, account, batch, fence, queue, priority, action, outcome, attempt, limited, message_id, error_code)
        SELECT token, account, batch, fence, queue, priority, action, 'sent', attempt,
               coalesce((SELECT limited FROM actions WHERE name = taken_back.action), false), message_id, 'AcceptedLate'
          FROM taken_back
          JOIN accepted USING (token)
         WHERE NOT is_held
        RETURNING token
    )
    SELECT (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM amended) AS amended,
           (SELECT max(token) FROM waiting HAVING count(*) >= late_acceptances.most) AS last_held,
           (SELECT max(created_at) FROM unsent HAVING count(*) >= late_acceptances.most) AS last_failed;
END $$;
