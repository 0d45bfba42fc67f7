-- Forget those of these tokens that have long been finished (see prune).
--
-- Arguments: candidates (tokens), older_than, and tries. Without any, what is refused fails.
--
-- Returns one row: how many deliveries and tokens were deleted, and whether any was refused. A table, a trigger or a rule of
-- the application's own may need some, which must not keep the others for ever: so where any are refused, each half is tried
-- by itself, with half of the tries. Where none is left, those stay until the next time, which parts them otherwise: all of
-- them may be needed.
--
-- Locks: deliveries by id, then tokens by id, skipping what others hold.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.prune_tokens(
    candidates bigint[], older_than interval, tries integer
)
    RETURNS TABLE (
        deliveries bigint, tokens bigint, refused boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    half integer := cardinality(prune_tokens.candidates) / 2;
BEGIN
    BEGIN
        WITH in_flight AS MATERIALIZED (
            SELECT unnest(tokens) AS token FROM batches
        ),
        finished AS MATERIALIZED (
            SELECT candidate.token, logged.ids, kept.id IS NULL AS gone
              FROM unnest(prune_tokens.candidates) AS candidate (token)
             CROSS JOIN LATERAL (SELECT count(*) AS jobs FROM jobs WHERE jobs.token = candidate.token) AS waiting
             CROSS JOIN LATERAL (
                   SELECT array_agg(id) AS ids, max(created_at) AS newest_at,
                          count(*) FILTER (
                              WHERE NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')) AS finals
                     FROM deliveries
                    WHERE deliveries.token = candidate.token
                   ) AS logged
              LEFT JOIN LATERAL (
                   SELECT id, coalesce(consumed_at, expires_at) AS ended_at FROM tokens WHERE id = candidate.token LIMIT 1
                   ) AS kept ON true
             WHERE waiting.jobs = 0
               AND NOT EXISTS (SELECT FROM in_flight WHERE in_flight.token = candidate.token)
               AND logged.newest_at < now() - prune_tokens.older_than
               AND (kept.id IS NULL OR (logged.finals > 0 AND kept.ended_at < now() - prune_tokens.older_than))
        ),
        -- Asked again under the locks, of the rows as they are then: one that an operator has taken back meanwhile, or that is
        -- being taken back, or consumed, keeps its token and all of its history.
        held AS MATERIALIZED (
            SELECT id, token, retried_at, outcome, late
              FROM deliveries
             WHERE id = ANY (ARRAY(SELECT unnest(ids) FROM finished))
             ORDER BY id
               FOR UPDATE SKIP LOCKED
        ),
        whole AS MATERIALIZED (
            SELECT finished.token, finished.gone
              FROM finished
              JOIN held ON held.token = finished.token
             GROUP BY finished.token, finished.gone, finished.ids
            HAVING count(*) = cardinality(finished.ids)
               AND (finished.gone OR count(*) FILTER (
                    WHERE NOT held.late AND held.retried_at IS NULL AND held.outcome NOT IN ('deferred', 'unconfirmed')) > 0)
        ),
        -- Once for each account and action, by the account. (A filter, and no condition: the planner would look for a lowest id
        -- by walking from the lowest there is.)
        ended AS MATERIALIZED (
            SELECT owner.account, owner.action, older.lowest
              FROM (SELECT DISTINCT account, action
                      FROM (SELECT account, action, consumed_at
                              FROM tokens
                             WHERE id = ANY (ARRAY(SELECT token FROM whole WHERE NOT gone))
                            OFFSET 0) AS known  -- or all that were consumed would be walked over
                     WHERE consumed_at IS NOT NULL) AS owner
             CROSS JOIN LATERAL (
                   SELECT min(id) FILTER (
                              WHERE tokens.action = owner.action AND consumed_at IS NULL
                                AND id NOT IN (SELECT token FROM whole)) AS lowest
                     FROM tokens
                    WHERE tokens.account = owner.account
                   ) AS older
        ),
        mine AS MATERIALIZED (
            SELECT id
              FROM tokens
             WHERE id = ANY (ARRAY(SELECT token FROM whole WHERE NOT gone))
               AND coalesce(consumed_at, expires_at) < now() - prune_tokens.older_than
               AND (consumed_at IS NULL OR NOT EXISTS (
                   SELECT FROM ended
                    WHERE ended.account = tokens.account AND ended.action = tokens.action AND ended.lowest < tokens.id))
             ORDER BY id
               FOR UPDATE SKIP LOCKED
        ),
        forgotten AS (
            DELETE FROM tokens WHERE id = ANY (ARRAY(SELECT id FROM mine)) RETURNING id
        ),
        cleared AS (
            DELETE FROM deliveries
             WHERE id = ANY (ARRAY(
                   SELECT held.id FROM held JOIN whole USING (token)
                    WHERE whole.gone OR token IN (SELECT id FROM forgotten)
                    ORDER BY 1))
            RETURNING id
        ),
        unheard AS (
            DELETE FROM events
             WHERE token = ANY (ARRAY(
                   SELECT id FROM forgotten UNION ALL SELECT token FROM whole WHERE gone))
        )
        SELECT (SELECT count(*) FROM cleared), (SELECT count(*) FROM forgotten) INTO deliveries, tokens;
        refused := false;
        SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of all
    EXCEPTION
        -- Each would meet these, and wait. What is hidden (insufficient_privilege) is not what is not there.
        WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR insufficient_privilege THEN
            RAISE;
        WHEN OTHERS THEN
            IF tries < 1 THEN
                RAISE;
            END IF;
            refused := true;
            IF half > 0 AND tries > 1 THEN
                SELECT sum(part.deliveries), sum(part.tokens)
                  INTO deliveries, tokens
                  FROM (SELECT * FROM prune_tokens(candidates[:half], older_than, tries / 2)
                         UNION ALL
                        SELECT * FROM prune_tokens(candidates[half + 1:], older_than, tries / 2)) AS part;
            ELSE
                -- For whoever asks: as many may be needed as there are, and the log of the server is not for them.
                RAISE NOTICE 'mailroom: token % and % after it may not be forgotten, and stay: %',
                             candidates[1], cardinality(candidates) - 1, SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('prune token=%s', candidates[1]);
                deliveries := 0;
                tokens := 0;
            END IF;
    END;
    RETURN NEXT;
END $$;
