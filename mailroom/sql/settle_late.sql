-- Keep what became of the jobs of a batch that was not ours any more, as late: it decides nothing here.
--
-- Binds: fence, batch (its id), action, and a row for each delivery in arrays: tokens, proofs (the first eight bytes of
-- sha256 of the token's secret), accounts, attempts, outcomes, message_ids, error_codes, errors.
--
-- Told twice, or after a settlement of which the answer was lost, they are kept once. Where the token is not the one that
-- was mailed, since ids came again, they are kept under no token: they tell nothing of another mail. They keep their proof,
-- since the id may come again later.
--
-- Returns how many rows were kept.
--
-- Counted, since PostgreSQL may turn a NOT EXISTS into a table of all that matches, made from the whole log.
-- LIMIT: a look by index for each token, whatever the planner thinks of their number.
WITH under_no_token AS MATERIALIZED (
    SELECT outcome, proof
      FROM deliveries
     WHERE token IS NULL AND fence = CAST(:fence AS uuid) AND proof IS NOT NULL
),
kept AS (
    INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, late, proof, message_id, error_code, error)
    SELECT CASE WHEN mailed.same THEN token END, account, CAST(:batch AS bigint), CAST(:fence AS uuid),
           CAST(:action AS token_action), outcome, attempt, true, result.proof, message_id, error_code, error
      FROM unnest(CAST(:tokens AS bigint[]), CAST(:proofs AS bytea[]), CAST(:accounts AS bigint[]),
                  CAST(:attempts AS smallint[]), CAST(:outcomes AS delivery_outcome[]), CAST(:message_ids AS text[]),
                  CAST(:error_codes AS text[]), CAST(:errors AS text[]))
           AS result (token, proof, account, attempt, outcome, message_id, error_code, error)
      LEFT JOIN LATERAL (
           SELECT substring(sha256(tokens.secret) FOR 8) = result.proof AS same
             FROM tokens
            WHERE tokens.id = result.token
            LIMIT 1
           ) AS mailed ON true
     WHERE 0 = (
           SELECT count(*) FROM deliveries AS logged
            WHERE logged.token = result.token AND logged.fence = CAST(:fence AS uuid) AND logged.outcome = result.outcome
           )
       AND (result.outcome, result.proof) NOT IN (SELECT outcome, proof FROM under_no_token)
    RETURNING 1
)
SELECT count(*) FROM kept WHERE sees_every_row()
