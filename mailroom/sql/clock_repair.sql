-- Bring back moments that are further ahead than anything that mailroom ever writes: the clock was set back since.
--
-- Binds: queue, priorities and actions, as for claim; max_wait, untried_wait and max_probe_wait, as for look;
-- again_after (an interval: when a job that was tried before comes due: it may be out, and a late answer may arrive);
-- most (how many to bring back, of each lane, of batches and of pauses: from the far end).
--
-- A job that was never tried is due at once. A batch gets a new lease, as long as the old one. A job that is held (due
-- never) stays so.
--
-- Returns how many were brought back.
--
-- Locks: jobs, batches and pauses, skipping what others hold.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now
),
lane AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:priorities AS smallint[]), CAST(:actions AS token_action[])) AS lane (priority, action)
),
far AS MATERIALIZED (
    SELECT last.token
      FROM lane
     CROSS JOIN LATERAL (
           SELECT token, due_at, attempt
             FROM jobs
            WHERE queue = :queue AND priority = lane.priority AND action = lane.action
              AND due_at > now() + CAST(:untried_wait AS interval) AND due_at < 'infinity'
            ORDER BY due_at DESC, token DESC
            LIMIT :most
              FOR UPDATE SKIP LOCKED) AS last
     WHERE last.attempt = 0 OR last.due_at > now() + CAST(:max_wait AS interval)
),
due AS (
    UPDATE jobs
       SET due_at = moment.now + CASE WHEN attempt = 0 THEN interval '0' ELSE :again_after END
      FROM moment
     WHERE token = ANY (ARRAY(SELECT token FROM far))
    RETURNING token
),
leased AS (
    UPDATE batches
       SET claimed_at = moment.now, lease_until = moment.now + (lease_until - claimed_at)
      FROM moment
     WHERE id = ANY (ARRAY(
           SELECT id FROM batches WHERE claimed_at > clock_timestamp() ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED))
    RETURNING id
),
probed AS (
    UPDATE pauses
       SET probe_at = moment.now
      FROM moment
     WHERE scope = ANY (ARRAY(
           SELECT scope
             FROM pauses
            WHERE probe_at > clock_timestamp() + CAST(:max_probe_wait AS interval) AND probe_at < 'infinity'
            ORDER BY scope LIMIT :most FOR UPDATE SKIP LOCKED))
    RETURNING scope
)
SELECT (SELECT count(*) FROM due) + (SELECT count(*) FROM leased) + (SELECT count(*) FROM probed) AS moments
