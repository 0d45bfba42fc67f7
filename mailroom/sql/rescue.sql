-- Give back the jobs of batches whose lease ran out.
--
-- Arguments: batch_limit (batches at a time), passed_over (how many of the first to leave for now), max_attempts,
-- resend_after (an interval; NULL: never).
--
-- SES may have accepted any of these mails, so each attempt is charged and on record as unconfirmed. A job comes due
-- after resend_after, in which a late answer may still arrive, or is held; one that has no attempt left fails. Bulk comes
-- back as normal: a day of it may be waiting, and who was in flight has waited already. A job whose batch is lost for the
-- second time may be what kills its worker: it goes to quarantine (priority 3), and takes no others along.
--
-- Returns a row for each job, with the batch it was in and whether it has failed.
--
-- Locks: batches, skipping those that are being settled or rescued.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.rescue(
    batch_limit integer, passed_over integer, max_attempts integer, resend_after interval
)
    RETURNS TABLE (
        batch bigint, worker text, action text, token bigint, attempt smallint, failed boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    after_id bigint := batches_newest();
    lost_ids bigint[];
BEGIN
    -- Of the newest first (see batches_newest), and if there is none of them, of the others.
    lost_ids := ARRAY(
        SELECT id FROM batches WHERE id > variables.after_id AND lease_until < clock_timestamp()
         ORDER BY id LIMIT rescue.batch_limit OFFSET rescue.passed_over FOR UPDATE SKIP LOCKED);
    IF cardinality(lost_ids) = 0 THEN
        lost_ids := ARRAY(
            SELECT id FROM batches WHERE id <= variables.after_id AND lease_until < clock_timestamp()
             ORDER BY id LIMIT rescue.batch_limit
            OFFSET greatest(0, rescue.passed_over - (
                   SELECT count(*) FROM batches WHERE id > variables.after_id AND lease_until < clock_timestamp()))
               FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN QUERY
    WITH lost AS (
        DELETE FROM batches
         WHERE id = ANY (variables.lost_ids)
        RETURNING id, fence, queue, worker, action, priority, tokens, attempts, due_ats, due_at, claimed_at
    ),
    job AS MATERIALIZED (
        SELECT lost.id AS batch, lost.fence, lost.queue, lost.worker, lost.action, held.token, held.attempt,
               CASE WHEN lost_before.batch IS NOT NULL THEN 3 ELSE least(lost.priority, 1) END AS priority,
               tokens.account, held.attempt + 1 >= rescue.max_attempts AS failed,
               coalesce(held.due_at, lost.due_at) AS due_at, lost.claimed_at
          FROM lost
         CROSS JOIN LATERAL unnest(lost.tokens, lost.attempts, lost.due_ats) AS held (token, attempt, due_at)
          LEFT JOIN tokens ON tokens.id = held.token
          LEFT JOIN LATERAL (
               SELECT deliveries.batch
                 FROM deliveries
                WHERE deliveries.token = held.token AND deliveries.error_code = 'LeaseExpired'
                LIMIT 1
               ) AS lost_before ON held.attempt > 0
    ),
    logged AS (
        INSERT INTO deliveries (token, account, batch, fence, queue, priority, action, outcome, attempt, limited, error_code, error,
                                due_at, claimed_at)
        SELECT token, account, batch, fence, queue, priority, action, 'unconfirmed'::delivery_outcome, attempt,
               coalesce((SELECT limited FROM actions WHERE name = job.action), false),
               'LeaseExpired', 'the worker did not settle the batch within its lease', due_at, claimed_at
          FROM job
        UNION ALL
        SELECT token, account, batch, fence, queue, priority, action, 'failed', attempt, false, 'LeaseExpired', 'no attempt is left',
               due_at, claimed_at
          FROM job
         WHERE failed
    ),
    again AS (
        INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
        SELECT token, coalesce(now() + rescue.resend_after, 'infinity'), action, priority, attempt + 1, queue
          FROM job
         WHERE NOT failed
        ON CONFLICT (token) DO NOTHING
    )
    SELECT batch, worker, CAST(action AS text), token, attempt, failed
      FROM job
     ORDER BY batch, token;
END $$;
