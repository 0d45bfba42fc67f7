-- Record what became of the jobs of some batches of one action, and close the batches.
--
-- Binds: closing (ids of batches), action, and a row for each delivery in arrays: tokens, accounts, batches, attempts,
-- outcomes, message_ids, error_codes, errors; and for each job that is to be tried again: again_tokens, again_batches,
-- again_attempts, again_after (NULL: it is held, due never, until somebody decides). A job of these batches without a
-- final delivery goes back to jobs, also when nothing is said of it (release): then uncharged, and due when the oldest
-- of its batch was.
--
-- The fence: the row of a batch is deleted first. Whoever comes second, this or rescue, finds none. Results that come
-- second are logged as late and decide nothing; told twice (the first answer was lost), they are logged once. But where
-- one of them says that a mail which is held was accepted, there is nothing left to decide: the next claim ends it.
--
-- Returns the ids of the batches that were still ours.
--
-- Locks: the batches, in no stated order (rescue passes over what is locked, so nobody who holds one of them waits for
-- this); then, for what was gone, jobs that are held, by token.
WITH closed AS MATERIALIZED (
    DELETE FROM batches
     WHERE id = ANY (CAST(:closing AS bigint[]))
    RETURNING id, queue, action, priority, due_at, tokens, attempts
),
results AS MATERIALIZED (
    SELECT *
      FROM unnest(CAST(:tokens AS bigint[]), CAST(:accounts AS bigint[]), CAST(:batches AS bigint[]),
                  CAST(:attempts AS smallint[]), CAST(:outcomes AS delivery_outcome[]), CAST(:message_ids AS text[]),
                  CAST(:error_codes AS text[]), CAST(:errors AS text[]))
           AS result (token, account, batch, attempt, outcome, message_id, error_code, error)
),
-- Counted, since PostgreSQL may turn a NOT EXISTS in an OR into a table of all that matches, made from the whole log.
logged AS (
    INSERT INTO deliveries (token, account, batch, action, outcome, attempt, late, message_id, error_code, error)
    SELECT token, account, batch, CAST(:action AS token_action), outcome, attempt, closed.id IS NULL,
           message_id, error_code, error
      FROM results
      LEFT JOIN closed ON closed.id = results.batch
     WHERE closed.id IS NOT NULL
        OR 0 = (
           SELECT count(*) FROM deliveries AS told
            WHERE told.token = results.token AND told.batch = results.batch AND told.outcome = results.outcome
           )
),
again AS (
    INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
    SELECT held.token,
           CASE WHEN retry.token IS NULL THEN closed.due_at ELSE coalesce(now() + retry.after, 'infinity') END,
           closed.action, closed.priority, coalesce(retry.attempt, held.attempt), closed.queue
      FROM closed
     CROSS JOIN LATERAL unnest(closed.tokens, closed.attempts) AS held (token, attempt)
      LEFT JOIN unnest(CAST(:again_tokens AS bigint[]), CAST(:again_batches AS bigint[]),
                       CAST(:again_attempts AS smallint[]), CAST(:again_after AS interval[]))
                AS retry (token, batch, attempt, after)
           ON retry.token = held.token AND retry.batch = closed.id
     WHERE NOT EXISTS (
           SELECT FROM results
            WHERE results.token = held.token AND results.batch = closed.id
              AND results.outcome NOT IN ('deferred', 'unconfirmed')
           )
    ON CONFLICT (token) DO NOTHING
),
accepted AS MATERIALIZED (
    SELECT jobs.token
      FROM jobs
     WHERE jobs.token = ANY (ARRAY(
           SELECT token FROM results WHERE outcome = 'sent' AND batch NOT IN (SELECT id FROM closed)))
       AND jobs.due_at = 'infinity'
     ORDER BY jobs.token
       FOR UPDATE
),
freed AS (
    UPDATE jobs SET due_at = clock_timestamp() FROM accepted WHERE jobs.token = accepted.token
)
SELECT id FROM closed
