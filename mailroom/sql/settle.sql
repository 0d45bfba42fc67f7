-- Record what became of the jobs of some batches of one action, and close the batches.
--
-- Binds: closing_ids and closing_fences (the batches), action, and a row for each delivery in arrays: tokens, proofs
-- (the first eight bytes of sha256 of the token's secret), accounts, places (which of the closing, from 1),
-- attempts, outcomes, message_ids, error_codes, errors; and for each job that is to be tried again: again_tokens,
-- again_places, again_attempts, again_after (NULL: it is held, due never, until somebody decides). A job of these batches without a final delivery goes back to
-- jobs, also when nothing is said of it: then uncharged, and due when the oldest of its batch was.
--
-- The fence: the row of a batch is deleted first. Whoever comes second, this or rescue, finds none. It is random: after a
-- failover that lost commits the same id may be another batch. Results that come second are logged as late and decide
-- nothing here; told twice (the first answer was lost), they are logged once. Where the token of a late one is not the
-- one that was mailed, since ids came again, it is logged under no token: it tells nothing of another mail. What is late
-- keeps its proof, since the id may come again later.
--
-- Returns the fences of the batches that were still ours; where there is none, NULL.
--
-- Locks: the batches, in no stated order: rescue passes over what is locked, so nobody who holds one of them waits for
-- this.
WITH closed AS MATERIALIZED (
    DELETE FROM batches
     USING unnest(CAST(:closing_ids AS bigint[]), CAST(:closing_fences AS uuid[])) AS closing (id, fence)
     WHERE batches.id = closing.id AND batches.fence = closing.fence
    RETURNING batches.fence, queue, action, priority, due_at, tokens, attempts
),
results AS MATERIALIZED (
    SELECT *, (CAST(:closing_ids AS bigint[]))[place] AS batch, (CAST(:closing_fences AS uuid[]))[place] AS fence
      FROM unnest(CAST(:tokens AS bigint[]), CAST(:proofs AS bytea[]), CAST(:accounts AS bigint[]),
                  CAST(:places AS integer[]), CAST(:attempts AS smallint[]), CAST(:outcomes AS delivery_outcome[]),
                  CAST(:message_ids AS text[]), CAST(:error_codes AS text[]), CAST(:errors AS text[]))
           AS result (token, proof, account, place, attempt, outcome, message_id, error_code, error)
),
-- Counted, since PostgreSQL may turn a NOT EXISTS in an OR into a table of all that matches, made from the whole log.
-- LIMIT: a look by index at the few tokens that are late, whatever the planner thinks of the many.
logged AS (
    INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, late, proof, message_id, error_code, error)
    SELECT CASE WHEN closed.fence IS NOT NULL OR mailed.same THEN token END,
           account, batch, results.fence, CAST(:action AS token_action), outcome, attempt, closed.fence IS NULL,
           CASE WHEN closed.fence IS NULL THEN proof END, message_id, error_code, error
      FROM results
      LEFT JOIN closed ON closed.fence = results.fence
      LEFT JOIN LATERAL (
           SELECT substring(sha256(tokens.secret) FOR 8) = results.proof AS same
             FROM tokens
            WHERE tokens.id = CASE WHEN closed.fence IS NULL THEN results.token END
            LIMIT 1
           ) AS mailed ON true
     WHERE closed.fence IS NOT NULL
        OR 0 = (
           SELECT count(*) FROM deliveries AS told
            WHERE told.token = results.token AND told.fence = results.fence AND told.outcome = results.outcome
           )
),
again AS (
    INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
    SELECT held.token,
           CASE WHEN retry.token IS NULL THEN closed.due_at ELSE coalesce(now() + retry.after, 'infinity') END,
           closed.action, closed.priority, coalesce(retry.attempt, held.attempt), closed.queue
      FROM closed
     CROSS JOIN LATERAL unnest(closed.tokens, closed.attempts) AS held (token, attempt)
      LEFT JOIN unnest(CAST(:again_tokens AS bigint[]), CAST(:again_places AS integer[]),
                       CAST(:again_attempts AS smallint[]), CAST(:again_after AS interval[]))
                AS retry (token, place, attempt, after)
           ON retry.token = held.token AND (CAST(:closing_fences AS uuid[]))[retry.place] = closed.fence
     WHERE NOT EXISTS (
           SELECT FROM results
            WHERE results.token = held.token AND results.fence = closed.fence
              AND results.outcome NOT IN ('deferred', 'unconfirmed')
           )
    ON CONFLICT (token) DO NOTHING
)
SELECT fence FROM (VALUES (true)) AS always LEFT JOIN closed ON true WHERE sees_every_row()
