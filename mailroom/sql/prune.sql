-- Forget tokens that have long been finished: all their deliveries and events, and the tokens themselves. A token that stayed without
-- its deliveries would look as if it had never been mailed, and be mailed again.
--
-- Arguments: after (look at deliveries with higher ids), scan_limit (how many to look at, and how many events that
-- nothing here knows to delete), older_than (an interval).
--
-- A token is forgotten whole or not at all: when its newest delivery is old enough, it is neither waiting nor in
-- flight, and it is finished and was consumed or ran out as long ago; or when it is gone, with its account. One that was
-- consumed stays as long as an older one of its account and action that was not: with it gone, the older would be good
-- again, until it runs out, or gets its life back.
--
-- Returns one row: how many deliveries and tokens were deleted, and after_id to go on (NULL: that was all). Old events
-- of nobody may be more than one step deletes where no delivery is old: then it goes on as well. So it does where one is
-- ahead, from a time when the clock was: old ones may follow.
--
-- Locks: deliveries by id, then tokens by id, skipping what others hold.
--
-- Plan: made anew each time. One that is kept from a time when there was next to nothing walks over all there is.
CREATE OR REPLACE FUNCTION mailroom.prune(
    older_than interval, after bigint, scan_limit integer
)
    RETURNS TABLE (
        deliveries bigint, tokens bigint, after_id bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH looked AS MATERIALIZED (
        SELECT id, token, created_at < now() - prune.older_than AS old, created_at > now() AS ahead
          FROM deliveries
         WHERE id > prune.after
         ORDER BY id
         LIMIT prune.scan_limit
    ),
    in_flight AS MATERIALIZED (
        SELECT unnest(tokens) AS token FROM batches
    ),
    finished AS MATERIALIZED (
        SELECT candidate.token, logged.ids, kept.id IS NULL AS gone
          FROM (SELECT DISTINCT token FROM looked WHERE old AND token IS NOT NULL) AS candidate
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
           AND logged.newest_at < now() - prune.older_than
           AND (kept.id IS NULL OR (logged.finals > 0 AND kept.ended_at < now() - prune.older_than))
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
           AND coalesce(consumed_at, expires_at) < now() - prune.older_than
           AND (consumed_at IS NULL OR NOT EXISTS (
               SELECT FROM ended
                WHERE ended.account = tokens.account AND ended.action = tokens.action AND ended.lowest < tokens.id))
         ORDER BY id
           FOR UPDATE SKIP LOCKED
    ),
    forgotten AS (
        DELETE FROM tokens WHERE id = ANY (ARRAY(SELECT id FROM mine)) RETURNING id
    ),
    -- What was logged under no token goes by its own age.
    cleared AS (
        DELETE FROM deliveries
         WHERE id = ANY (ARRAY(
               SELECT held.id FROM held JOIN whole USING (token)
                WHERE whole.gone OR token IN (SELECT id FROM forgotten)
                UNION ALL
               SELECT id FROM looked WHERE old AND token IS NULL
                ORDER BY 1))
        RETURNING id
    ),
    -- Evidence goes with its token; what nothing here knows, by its own age.
    unheard AS (
        DELETE FROM events
         WHERE token = ANY (ARRAY(
               SELECT id FROM forgotten UNION ALL SELECT token FROM whole WHERE gone))
    ),
    strangers AS (
        DELETE FROM events
         WHERE (message_id, kind, at) IN (
               SELECT message_id, kind, at FROM events
                WHERE token IS NULL AND absorbed_at < now() - prune.older_than
                ORDER BY absorbed_at
                LIMIT prune.scan_limit)
        RETURNING kind
    )
    SELECT (SELECT count(*) FROM cleared) AS deliveries,
           (SELECT count(*) FROM forgotten) AS tokens,
           CASE WHEN (SELECT count(*) = prune.scan_limit AND bool_or(old OR ahead) FROM looked)
                  OR (SELECT count(*) = prune.scan_limit FROM strangers)
                THEN (SELECT coalesce(max(id), prune.after) FROM looked) END AS after_id;
END $$;
