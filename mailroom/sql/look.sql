-- Look whether there is anything to do, and if not, when there will be. Changes nothing, locks nothing.
--
-- Arguments: queue, priorities, actions, floors_due_at, floors_token, slack, batch_limit, batch_timeout, as for claim; and
-- settled_after (an interval): what is longer due than that, and cannot be seen, is dead; and max_wait and
-- untried_wait (intervals): for how long a job waits at most for another attempt, and if none was charged; and
-- max_probe_wait: how far ahead the probe of a pause is.
--
-- Returns one row: how many batches could be claimed now (counting up to one a lane), the seconds until the next one
-- could be or the next pause can be probed (NULL: nothing waits), whether a lease has run out, whether a pause can be
-- probed now with a job of this queue, and whether a moment is so far ahead that the clock must have been set back (of
-- each lane the last job is asked, so that what lies before one that may wait so long is found later); and a floor for
-- each lane (heads_priority, heads_action, heads_due_at, heads_token), below which it saw nothing alive, so that one
-- look walks over what is dead and not each claim after it; and kinds, which is another once a row of actions is.
--
-- Whether a job may try the pause of `identity` (see sender_scope), pause_probe decides: asked here for each pause, it would
-- make the plan another one.
--
-- Plan: pinned, in the order in which it is written, whatever the statistics of the moment are at which it is made.
CREATE OR REPLACE FUNCTION mailroom.look(
    queue text, priorities smallint[], actions text[], floors_due_at timestamptz[], floors_token bigint[], slack
    interval, batch_limit integer, batch_timeout interval, settled_after interval, max_wait interval,
    untried_wait interval, max_probe_wait interval
)
    RETURNS TABLE (
        ready bigint, next_seconds double precision, rescuable boolean, probeable boolean, ahead boolean,
        heads_priority smallint[], heads_action text[], heads_due_at timestamptz[], heads_token bigint[],
        kinds text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET enable_material = off SET enable_memoize = off SET join_collapse_limit = 1 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT given.priority, given.action,
               least(coalesce(given.floor_due_at, '-infinity'), now() - look.slack) AS floor_due_at,
               CASE WHEN given.floor_due_at <= now() - look.slack THEN given.floor_token ELSE 0 END AS floor_token
          FROM unnest(look.priorities, CAST(look.actions AS token_action[]),
                      look.floors_due_at, look.floors_token)
               AS given (priority, action, floor_due_at, floor_token)
    ),
    lane AS MATERIALIZED (
        SELECT given.*
          FROM given
         WHERE NOT EXISTS (
               SELECT FROM pauses
                WHERE pauses.scope IN ('account', 'configuration_set', CAST(given.action AS text),
                                       sender_scope(CAST(given.action AS text)),
                                       'queue:' || look.queue, lane_scope(given.priority, given.action)))
    ),
    -- When a batch of this lane may leave: at once if it is urgent or comes back for another attempt, else once it is full,
    -- or once its oldest job has waited long enough. least() passes over a NULL.
    leaves AS MATERIALIZED (
        SELECT lane.priority, lane.action,
               least(min(head.due_at), now() - look.settled_after) AS head_due_at,
               CASE WHEN min(head.due_at) <= now() - look.settled_after
                    THEN (array_agg(head.token ORDER BY head.due_at, head.token))[1] - 1 ELSE 0 END AS head_token,
               least(min(head.due_at) + CASE lane.priority WHEN 0 THEN interval '0' ELSE look.batch_timeout END,
                     min(head.due_at) FILTER (WHERE head.attempt > 0),
                     CASE WHEN count(head.token) >= look.batch_limit THEN max(head.due_at) END) AS leaves_at
          FROM lane
          LEFT JOIN LATERAL (
               SELECT due_at, attempt, token
                 FROM jobs
                WHERE queue = look.queue AND priority = lane.priority AND action = lane.action
                  AND (due_at, token) > (lane.floor_due_at, lane.floor_token)
                ORDER BY due_at, token
                LIMIT look.batch_limit) AS head ON true
         GROUP BY lane.priority, lane.action
    ),
    -- A look from the beginning sees all that is in flight; any other, the newest (see batches_newest).
    looks AS MATERIALIZED (
        SELECT coalesce(bool_and(floor IS NULL), true) AS from_start FROM unnest(look.floors_due_at) AS floor
    ),
    flight AS MATERIALIZED (
        SELECT claimed_at, lease_until FROM batches WHERE (SELECT from_start FROM looks)
         UNION ALL
        SELECT claimed_at, lease_until FROM batches
         WHERE NOT (SELECT from_start FROM looks) AND id > (SELECT batches_newest())
    )
    SELECT (SELECT count(*) FROM leaves WHERE leaves_at <= now()) AS ready,
           (SELECT CAST(extract(epoch FROM min(at) - now()) AS double precision)
              FROM (SELECT leaves_at FROM leaves UNION ALL SELECT probe_at FROM pauses) AS upcoming (at)
             WHERE at > now() AND at < 'infinity') AS next_seconds,
           EXISTS (SELECT FROM flight WHERE lease_until < now()) AS rescuable,
           EXISTS (
               SELECT
                 FROM pauses
                CROSS JOIN given
                CROSS JOIN LATERAL (
                      SELECT FROM jobs
                       WHERE queue = look.queue AND priority = given.priority AND action = given.action AND due_at <= now()
                         AND (due_at, token) > (given.floor_due_at, given.floor_token)
                       ORDER BY due_at, token LIMIT 1) AS due
                WHERE pauses.probe_at <= now()
                  AND (CAST(given.action AS text) = pauses.scope
                       OR pauses.scope IN ('account', 'configuration_set', 'identity'))
                  AND NOT EXISTS (
                      SELECT FROM pauses AS by_hand
                       WHERE by_hand.probe_at IS NULL
                         AND by_hand.scope IN ('account', 'configuration_set', CAST(given.action AS text),
                                               sender_scope(CAST(given.action AS text)),
                                               'queue:' || look.queue,
                                               lane_scope(given.priority, given.action)))) AS probeable,
           EXISTS (
                  SELECT FROM flight
                   WHERE claimed_at > clock_timestamp() OR lease_until > clock_timestamp() + interval '30 days')
               OR EXISTS (
                  SELECT FROM pauses
                   WHERE probe_at > clock_timestamp() + look.max_probe_wait AND probe_at < 'infinity')
               OR EXISTS (
                  SELECT
                    FROM given
                   CROSS JOIN LATERAL (
                         SELECT due_at, attempt
                           FROM jobs
                          WHERE queue = look.queue AND priority = given.priority AND action = given.action
                            AND due_at > now() + look.untried_wait AND due_at < 'infinity'
                          ORDER BY due_at DESC, token DESC
                          LIMIT 1) AS last
                   WHERE last.attempt = 0 OR last.due_at > now() + look.max_wait) AS ahead,
           ARRAY(SELECT priority FROM leaves ORDER BY priority, action) AS heads_priority,
           ARRAY(SELECT CAST(action AS text) FROM leaves ORDER BY priority, action) AS heads_action,
           ARRAY(SELECT head_due_at FROM leaves ORDER BY priority, action) AS heads_due_at,
           ARRAY(SELECT head_token FROM leaves ORDER BY priority, action) AS heads_token,
           -- No MD5: a server in FIPS mode refuses it.
           (SELECT encode(sha256(convert_to(string_agg(CAST(actions.* AS text), ' ' ORDER BY number), 'UTF8')), 'hex')
              FROM actions) AS kinds;
END $$;
