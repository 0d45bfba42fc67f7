-- Act on acceptances that came late, for these candidates (see late_acceptances).
--
-- Arguments: held (tokens of jobs), failed_tokens and failed_ids (of deliveries), and most, as late_acceptances has it.
--
-- Returns one row: how many jobs were freed, and how many deliveries became sent. A trigger or a rule of the application's
-- own may refuse some, which must not keep the others waiting: so where any are refused, each half is tried by itself.
--
-- Locks: jobs that are held, by token, then deliveries by id, skipping what others hold.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.late_acceptances_apply(
    held bigint[], failed_tokens bigint[], failed_ids bigint[], most integer
)
    RETURNS TABLE (
        freed bigint, amended bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    waiting integer := cardinality(late_acceptances_apply.held);
    over    integer := cardinality(late_acceptances_apply.failed_ids);
    counts  record;
BEGIN
    BEGIN
        WITH candidate AS MATERIALIZED (
            SELECT waiting.token, NULL::bigint AS id, true AS is_held
              FROM unnest(late_acceptances_apply.held) AS waiting (token)
            UNION ALL
            SELECT unsent.token, unsent.id, false
              FROM unnest(late_acceptances_apply.failed_tokens, late_acceptances_apply.failed_ids) AS unsent (token, id)
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
             LIMIT late_acceptances_apply.most
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
             LIMIT late_acceptances_apply.most
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
        SELECT (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM amended) AS amended INTO counts;
        SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of all
    EXCEPTION
        -- Each would meet these, and wait. What is hidden (insufficient_privilege) is not what is not there.
        WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR insufficient_privilege THEN
            RAISE;
        WHEN OTHERS THEN
            IF waiting + over > 1 THEN
                SELECT CAST(sum(half.freed) AS bigint) AS freed, CAST(sum(half.amended) AS bigint) AS amended
                  INTO counts
                  FROM (SELECT * FROM late_acceptances_apply(
                            held[:waiting / 2], failed_tokens[:(over + waiting % 2) / 2],
                            failed_ids[:(over + waiting % 2) / 2], most)
                         UNION ALL
                        SELECT * FROM late_acceptances_apply(
                            held[waiting / 2 + 1:], failed_tokens[(over + waiting % 2) / 2 + 1:],
                            failed_ids[(over + waiting % 2) / 2 + 1:], most)) AS half;
            ELSE
                RAISE WARNING 'mailroom: what came late of token % is not acted on, and tried again: %',
                              coalesce(held[1], failed_tokens[1]), SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('late_acceptance token=%s', coalesce(held[1], failed_tokens[1]));
                SELECT CAST(0 AS bigint) AS freed, CAST(0 AS bigint) AS amended INTO counts;
            END IF;
    END;
    RETURN QUERY SELECT counts.freed, counts.amended;
END $$;
