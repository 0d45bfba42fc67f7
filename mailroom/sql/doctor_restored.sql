-- See what a restore by hand has left: jobs of tokens whose final delivery is on record, and tokens in no place.
--
-- Arguments: scan_limit (at how many jobs from either end, and at how many of the newest tokens, to look).
--
-- One snapshot sees each token in one place, since everything moves them in one commit. A token that is consumed needs
-- no mail. The log names tokens that are gone as well: ids that came again are told apart by the moment of the token; and
-- a delivery that is older than the token of its id says that one of them was brought in without the other. (Not of a token
-- that is of the future, or younger than one with a higher id: the clock was set back after it was made.)
--
-- Returns one row: how many of each kind, and the first of each.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.doctor_restored(
    scan_limit integer
)
    RETURNS TABLE (
        twice bigint, first_twice bigint, older bigint, first_older bigint, nowhere bigint, first_nowhere
        bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH ends AS MATERIALIZED (
        (SELECT token FROM jobs ORDER BY token LIMIT doctor_restored.scan_limit)
        UNION
        (SELECT token FROM jobs ORDER BY token DESC LIMIT doctor_restored.scan_limit)
    ),
    newest AS MATERIALIZED (
        SELECT id
          FROM (SELECT id, consumed_at FROM tokens ORDER BY id DESC LIMIT doctor_restored.scan_limit) AS latest
         WHERE consumed_at IS NULL
    ),
    in_flight AS MATERIALIZED (
        SELECT unnest(tokens) AS token FROM batches
    ),
    -- Counted, since PostgreSQL may turn a NOT EXISTS into a table of all that matches, made from the whole log.
    twice AS MATERIALIZED (
        SELECT ends.token
          FROM ends
          JOIN tokens ON tokens.id = ends.token
         CROSS JOIN LATERAL (
               SELECT count(*) AS finals
                 FROM deliveries
                WHERE deliveries.token = ends.token AND deliveries.created_at >= tokens.created_at
                  AND NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')) AS logged
         WHERE logged.finals > 0
    ),
    older AS MATERIALIZED (
        SELECT tokens.id
          FROM (SELECT id, created_at,
                       min(created_at) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS later_at
                  FROM (SELECT id, created_at FROM tokens ORDER BY id DESC LIMIT doctor_restored.scan_limit) AS latest
               ) AS tokens
         CROSS JOIN LATERAL (
               SELECT count(*) AS deliveries
                 FROM deliveries
                WHERE deliveries.token = tokens.id AND deliveries.created_at < tokens.created_at) AS logged
         WHERE logged.deliveries > 0 AND tokens.created_at <= least(clock_timestamp(), tokens.later_at)
    ),
    nowhere AS MATERIALIZED (
        SELECT newest.id
          FROM newest
         CROSS JOIN LATERAL (SELECT count(*) AS jobs FROM jobs WHERE jobs.token = newest.id) AS waiting
         CROSS JOIN LATERAL (
               SELECT count(*) AS finals
                 FROM deliveries
                WHERE deliveries.token = newest.id
                  AND NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')) AS logged
         WHERE waiting.jobs = 0 AND logged.finals = 0
           AND NOT EXISTS (SELECT FROM in_flight WHERE in_flight.token = newest.id)
    )
    SELECT (SELECT count(*) FROM twice) AS twice, (SELECT min(token) FROM twice) AS first_twice,
           (SELECT count(*) FROM older) AS older, (SELECT min(id) FROM older) AS first_older,
           (SELECT count(*) FROM nowhere) AS nowhere, (SELECT min(id) FROM nowhere) AS first_nowhere;
END $$;
