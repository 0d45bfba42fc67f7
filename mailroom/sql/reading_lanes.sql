-- Count the jobs of each lane that has any, as far as it takes, however many there are.
--
-- Arguments: most (how many of each kind are counted at most), and known (names of queues, whether they have jobs or
-- not). Other queues are looked for between these names, so that nobody walks over the dead rows of a known queue only
-- to find its name.
--
-- Returns a row for each queue, priority and action: how many jobs are due, due later, and held, each up to `most`; for
-- how many seconds the oldest has been due, 0 if none is; and of that one, when it was due, and its token.
--
-- Locks: nothing.
--
-- Plan: pinned. Each count is a walk of one part of the claim index. What is held is asked for with >=, since with = it
-- would be by the index of all that is held, once for each lane.
CREATE OR REPLACE FUNCTION mailroom.reading_lanes(
    most integer, known text[]
)
    RETURNS TABLE (
        queue text, priority integer, action text, due bigint, later bigint, held bigint,
        oldest_seconds double precision, head_due_at timestamptz, head_token bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE given AS MATERIALIZED (
        SELECT DISTINCT name FROM unnest(reading_lanes.known) AS name WHERE name IS NOT NULL
    ),
    gap AS MATERIALIZED (
        SELECT '' AS lower, min(name) AS upper FROM given
        UNION ALL
        SELECT name, lead(name) OVER (ORDER BY name) FROM given
    ),
    met AS (
        SELECT upper, CASE WHEN upper IS NULL
                           THEN (SELECT queue FROM jobs WHERE queue > lower ORDER BY queue LIMIT 1)
                           ELSE (SELECT queue FROM jobs WHERE queue > lower AND queue < upper ORDER BY queue LIMIT 1)
                       END AS name
          FROM gap
        UNION ALL
        SELECT upper, CASE WHEN upper IS NULL
                           THEN (SELECT queue FROM jobs WHERE queue > name ORDER BY queue LIMIT 1)
                           ELSE (SELECT queue FROM jobs WHERE queue > name AND queue < upper ORDER BY queue LIMIT 1)
                       END
          FROM met
         WHERE name IS NOT NULL
    ),
    lane AS MATERIALIZED (
        SELECT of.queue, of.priority, actions.name AS action
          FROM (SELECT name AS queue, priority
                  FROM (SELECT name FROM given UNION SELECT name FROM met WHERE name IS NOT NULL) AS queues
                 CROSS JOIN generate_series(0, 3) AS priority) AS of
         CROSS JOIN actions
    ),
    counted AS (
        SELECT lane.*, now_due.jobs AS due, due_later.jobs AS later, kept.jobs AS held, now_due.oldest, now_due.first
          FROM lane
         CROSS JOIN LATERAL (
               SELECT count(*) AS jobs, min(due_at) AS oldest, (array_agg(token))[1] AS first
                 FROM (SELECT due_at, token
                         FROM jobs
                        WHERE jobs.queue = lane.queue AND jobs.priority = lane.priority AND jobs.action = lane.action
                          AND due_at <= now()
                        ORDER BY due_at, token
                        LIMIT reading_lanes.most) AS head) AS now_due
         CROSS JOIN LATERAL (
               SELECT count(*) AS jobs
                 FROM (SELECT
                         FROM jobs
                        WHERE jobs.queue = lane.queue AND jobs.priority = lane.priority AND jobs.action = lane.action
                          AND due_at > now() AND due_at < 'infinity'
                        ORDER BY due_at, token
                        LIMIT reading_lanes.most) AS head) AS due_later
         CROSS JOIN LATERAL (
               SELECT count(*) AS jobs
                 FROM (SELECT
                         FROM jobs
                        WHERE jobs.queue = lane.queue AND jobs.priority = lane.priority AND jobs.action = lane.action
                          AND due_at >= 'infinity'
                        ORDER BY due_at, token
                        LIMIT reading_lanes.most) AS head) AS kept
    )
    SELECT queue, priority, CAST(action AS text), due, later, held,
           CASE WHEN due > 0 THEN CAST(extract(epoch FROM now() - oldest) AS double precision) ELSE 0 END, oldest, first
      FROM counted
     WHERE due + later + held > 0
     ORDER BY queue, priority, CAST(action AS text);
END $$;
