-- Record what became of the jobs of some batches of one action, and close the batches.
--
-- Arguments: closing_ids and closing_fences (the batches), action, and a row for each delivery in arrays: tokens, accounts,
-- places (which of the closing, from 1), attempts, outcomes, message_ids, error_codes, errors; and for each job that is
-- to be tried again: again_tokens, again_places, again_attempts, again_after (NULL: it is held, due never, until somebody
-- decides); whether it is `asked` what has come meanwhile; and for each delivery call_ms, how many milliseconds its call
-- took (NULL: there was none, or of all of them nothing is known: a worker of the release before does not say).
--
-- A job of these batches without a final delivery goes back to jobs, also when nothing is said of it: then uncharged, and
-- due when the oldest of its batch was.
--
-- The fence: the row of a batch is deleted first. Whoever comes second, this or rescue, finds none, and nothing is done
-- for that batch. It is random: after a failover that lost commits the same id may be another batch.
--
-- Returns one row: owned, the fences of the batches that were still ours, and due, whether a job of their queue has come
-- since the oldest was claimed, or a second before (commits land out of order); NULL where that is not `asked`. Who
-- settles need not claim to learn that nothing came.
--
-- Locks: the batches, in no stated order: rescue passes over what is locked, so nobody who holds one of them waits for
-- this.
--
-- Plan: pinned. A batch is found by its key, whatever PostgreSQL thinks of their number: in a join with what is to be
-- closed it would walk over all that are in flight, and over those that are dead.
CREATE OR REPLACE FUNCTION mailroom.settle(
    closing_ids bigint[], closing_fences uuid[], action text, tokens bigint[], accounts bigint[],
    places integer[], attempts smallint[], outcomes text[], message_ids text[], error_codes text[], errors text[],
    again_tokens bigint[], again_places integer[], again_attempts smallint[], again_after interval[],
    asked boolean, call_ms integer[] DEFAULT NULL
)
    RETURNS TABLE (
        owned uuid[], due boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH closed AS MATERIALIZED (
        DELETE FROM batches
         WHERE id = ANY (settle.closing_ids) AND id = settle.closing_ids[array_position(settle.closing_fences, fence)]
        RETURNING id, fence, array_position(settle.closing_fences, fence) AS place, queue, action, priority, due_at,
                  tokens, attempts, due_ats, claimed_at
    ),
    results AS MATERIALIZED (
        SELECT *
          FROM unnest(settle.tokens, settle.accounts, settle.places,
                      settle.attempts, CAST(settle.outcomes AS delivery_outcome[]), settle.message_ids,
                      settle.error_codes, settle.errors, settle.call_ms)
               AS result (token, account, place, attempt, outcome, message_id, error_code, error, call_ms)
    ),
    logged AS (
        INSERT INTO deliveries (
            token, account, batch, fence, queue, priority, action, outcome, attempt, limited, message_id, error_code, error,
            due_at, claimed_at, call_ms)
        SELECT token, account, closed.id, fence, closed.queue, closed.priority, CAST(settle.action AS token_action), outcome, attempt,
               outcome IN ('sent', 'unconfirmed') AND coalesce((SELECT limited FROM actions WHERE name = settle.action), false),
               message_id, error_code, error,
               coalesce(due_ats[array_position(tokens, token)], closed.due_at), claimed_at, call_ms
          FROM results
          JOIN closed USING (place)
    ),
    again AS (
        INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
        SELECT held.token,
               CASE WHEN retry.token IS NULL THEN closed.due_at ELSE coalesce(now() + retry.after, 'infinity') END,
               closed.action, closed.priority, coalesce(retry.attempt, held.attempt), closed.queue
          FROM closed
         CROSS JOIN LATERAL unnest(closed.tokens, closed.attempts) AS held (token, attempt)
          LEFT JOIN unnest(settle.again_tokens, settle.again_places,
                           settle.again_attempts, settle.again_after)
                    AS retry (token, place, attempt, after)
               ON retry.token = held.token AND retry.place = closed.place
         WHERE NOT EXISTS (
               SELECT FROM results
                WHERE results.token = held.token AND results.place = closed.place
                  AND results.outcome NOT IN ('deferred', 'unconfirmed')
               )
        ON CONFLICT (token) DO NOTHING
    )
    SELECT ARRAY(SELECT fence FROM closed),
           CASE WHEN settle.asked THEN EXISTS (
               SELECT
                 FROM (SELECT queue, min(claimed_at) - interval '1 second' AS since FROM closed GROUP BY queue) AS working
                CROSS JOIN generate_series(0, 3) AS lane (priority)
                CROSS JOIN (SELECT name AS action FROM actions) AS of
                CROSS JOIN LATERAL (
                      SELECT
                        FROM jobs
                       WHERE jobs.queue = working.queue AND jobs.priority = lane.priority AND jobs.action = of.action
                         AND jobs.due_at >= working.since AND jobs.due_at <= clock_timestamp()
                       LIMIT 1) AS came
           ) END;
END $$;
