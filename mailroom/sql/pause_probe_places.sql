-- Choose jobs with which to try whether a pause can end: where they are in their lanes, in the order to try them.
--
-- Arguments: queue, priorities and actions, as for claim; codes (with which SES refuses a mail for its own sake); most (how
-- many) and again (how many of them may have been refused before); floors_due_at and floors_token, as for pause_probe.
--
-- Whoever is refused has to be passed over, however many they are and wherever they wait: so those come first that were
-- never refused, and they are taken in turn from the newest jobs, from those at a random moment, from those with a
-- random token (an import has one moment for all), and from the oldest.
--
-- Returns priority, action, due_at and token of each.
--
-- Locks nothing: what another takes meanwhile, the claim passes over. A constant number of reads by index.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.pause_probe_places(
    queue text, priorities smallint[], actions text[], codes text[], most integer, again integer,
    floors_due_at timestamptz[] DEFAULT NULL, floors_token bigint[] DEFAULT NULL
)
    RETURNS TABLE (
        priority smallint, action text, due_at timestamptz, token bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH lane AS MATERIALIZED (
        SELECT given.priority, given.action, oldest.due_at AS oldest_due_at, newest.due_at AS newest_due_at,
               oldest.token AS oldest_token, newest.token AS newest_token
          FROM (SELECT priority, action, coalesce(floor_due_at, '-infinity') AS floor_due_at, coalesce(floor_token, 0) AS floor_token
                  FROM unnest(pause_probe_places.priorities, CAST(pause_probe_places.actions AS token_action[]),
                              pause_probe_places.floors_due_at, pause_probe_places.floors_token)
                       AS lane (priority, action, floor_due_at, floor_token)) AS given
         CROSS JOIN LATERAL (
               SELECT due_at, token FROM jobs
                WHERE queue = pause_probe_places.queue AND priority = given.priority AND action = given.action AND due_at <= now()
                  AND (due_at, token) > (given.floor_due_at, given.floor_token)
                ORDER BY due_at, token LIMIT 1) AS oldest
         CROSS JOIN LATERAL (
               SELECT due_at, token FROM jobs
                WHERE queue = pause_probe_places.queue AND priority = given.priority AND action = given.action AND due_at <= now()
                  AND (due_at, token) > (given.floor_due_at, given.floor_token)
                ORDER BY due_at DESC, token DESC LIMIT 1) AS newest
    ),
    random_moment AS MATERIALIZED (
        SELECT lane.priority, lane.action, oldest_due_at + (newest_due_at - oldest_due_at) * random() AS at
          FROM lane, generate_series(1, pause_probe_places.most)
    ),
    random_token AS MATERIALIZED (
        SELECT lowest + CAST(floor((highest - lowest + 1) * random()) AS bigint) AS at
          FROM (SELECT least(min(oldest_token), min(newest_token)) AS lowest,
                       greatest(max(oldest_token), max(newest_token)) AS highest
                  FROM lane) AS ends, generate_series(1, pause_probe_places.most)
    ),
    seen AS (
        SELECT 1 AS kind, job.token
          FROM (SELECT token, queue, priority, action, due_at FROM jobs ORDER BY token DESC LIMIT 100) AS job
          JOIN lane USING (priority, action)
         WHERE job.queue = pause_probe_places.queue AND job.due_at <= now()
        UNION ALL
        SELECT 2, job.token
          FROM random_moment
         CROSS JOIN LATERAL (
               SELECT token FROM jobs
                WHERE queue = pause_probe_places.queue AND priority = random_moment.priority AND action = random_moment.action
                  AND due_at >= random_moment.at AND due_at <= now()
                ORDER BY due_at, token LIMIT 1) AS job
        UNION ALL
        SELECT 3, job.token
          FROM random_token
         CROSS JOIN LATERAL (
               SELECT near.token
                 FROM (SELECT token, queue, priority, action, due_at FROM jobs
                        WHERE token >= random_token.at ORDER BY token LIMIT 20) AS near
                 JOIN lane USING (priority, action)
                WHERE near.queue = pause_probe_places.queue AND near.due_at <= now()
                ORDER BY near.token LIMIT 1) AS job
        UNION ALL
        SELECT 4, job.token
          FROM lane
         CROSS JOIN LATERAL (
               SELECT token FROM jobs
                WHERE queue = pause_probe_places.queue AND priority = lane.priority AND action = lane.action AND due_at <= now()
                  AND (due_at, token) >= (lane.oldest_due_at, lane.oldest_token)
                ORDER BY due_at, token LIMIT 200) AS job
    ),
    candidate AS MATERIALIZED (
        SELECT once.kind, once.token,
               EXISTS (SELECT FROM deliveries
                        WHERE deliveries.token = once.token AND error_code = ANY (pause_probe_places.codes)) AS refused
          FROM (SELECT DISTINCT ON (token) kind, token FROM seen ORDER BY token, kind DESC) AS once
    ),
    ranked AS (
        SELECT token, refused,
               row_number() OVER (PARTITION BY refused ORDER BY random()) AS number,
               row_number() OVER (PARTITION BY refused, kind ORDER BY random()) AS turn
          FROM candidate
    )
    SELECT jobs.priority, CAST(jobs.action AS text), jobs.due_at, jobs.token
      FROM ranked
      JOIN jobs USING (token)
     WHERE NOT ranked.refused OR ranked.number <= pause_probe_places.again
     ORDER BY ranked.refused, ranked.turn, random()
     LIMIT pause_probe_places.most;
END $$;
