-- Keep what became of the jobs of a batch that was not ours any more, as late: it decides nothing here.
--
-- Arguments: fence, batch (its id), action, and a row for each delivery in arrays: tokens, proofs (the first eight
-- bytes of sha256 of the token's secret), accounts, attempts, outcomes, message_ids, error_codes, errors.
--
-- Told twice, or after a settlement of which the answer was lost, they are kept once. Where the token is not the one
-- that was mailed, since ids came again, they are kept under no token: they tell nothing of another mail. They keep
-- their proof, since the id may come again later.
--
-- Returns how many rows were kept.
--
-- Plan: it counts, since PostgreSQL may turn a NOT EXISTS into a table of all that matches, made from the whole log.
-- With LIMIT there is a look by index for each token, whatever the planner thinks of their number.
CREATE OR REPLACE FUNCTION mailroom.settle_late(
    batch bigint, fence uuid, action text, tokens bigint[], proofs bytea[], accounts bigint[], attempts
    smallint[], outcomes text[], message_ids text[], error_codes text[], errors text[]
)
    RETURNS TABLE (
        kept bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH under_no_token AS MATERIALIZED (
        SELECT outcome, proof
          FROM deliveries
         WHERE token IS NULL AND fence = settle_late.fence AND proof IS NOT NULL
    ),
    kept AS (
        INSERT INTO deliveries (
            token, account, batch, fence, action, outcome, attempt, late, limited, proof, message_id, error_code, error)
        SELECT CASE WHEN mailed.same THEN token END, account, settle_late.batch, settle_late.fence,
               CAST(settle_late.action AS token_action), outcome, attempt, true,
               outcome IN ('sent', 'unconfirmed') AND coalesce((SELECT limited FROM actions WHERE name = settle_late.action), false),
               result.proof, message_id, error_code, error
          FROM unnest(settle_late.tokens, settle_late.proofs, settle_late.accounts,
                      settle_late.attempts, CAST(settle_late.outcomes AS delivery_outcome[]), settle_late.message_ids,
                      settle_late.error_codes, settle_late.errors)
               AS result (token, proof, account, attempt, outcome, message_id, error_code, error)
          LEFT JOIN LATERAL (
               SELECT substring(sha256(tokens.secret) FOR 8) = result.proof AS same
                 FROM tokens
                WHERE tokens.id = result.token
                LIMIT 1
               ) AS mailed ON true
         WHERE 0 = (
               SELECT count(*) FROM deliveries AS logged
                WHERE logged.token = result.token AND logged.fence = settle_late.fence AND logged.outcome = result.outcome
               )
           AND (result.outcome, result.proof) NOT IN (SELECT outcome, proof FROM under_no_token)
        RETURNING 1
    )
    SELECT count(*) FROM kept;
END $$;
