-- Bring back moments that are further ahead than anything that mailroom ever writes: the clock was set back since.
--
-- Arguments: queue, priorities and actions, as for claim; max_wait, untried_wait and max_probe_wait, as for look;
-- again_after (an interval: when a job that was tried before comes due: it may be out, and a late answer may arrive);
-- most (how many to bring back, of each lane, of batches and of pauses: from the far end).
--
-- A job that was never tried is due at once. A batch gets a new lease, as long as the old one, or none if that was longer
-- than any lease is (30 days): somebody has set it. A job that is held (due never) stays so.
--
-- Returns how many were brought back.
--
-- Locks: jobs, batches and pauses, skipping what others hold.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.clock_repair(
    queue text, priorities smallint[], actions text[], max_wait interval, untried_wait interval, max_probe_wait
    interval, again_after interval, most integer
)
    RETURNS TABLE (
        moments bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH moment AS MATERIALIZED (
        SELECT clock_timestamp() AS now
    ),
    lane AS MATERIALIZED (
        SELECT * FROM unnest(clock_repair.priorities, CAST(clock_repair.actions AS token_action[])) AS lane (priority, action)
    ),
    far AS MATERIALIZED (
        SELECT last.token
          FROM lane
         CROSS JOIN LATERAL (
               SELECT token, due_at, attempt
                 FROM jobs
                WHERE queue = clock_repair.queue AND priority = lane.priority AND action = lane.action
                  AND due_at > now() + clock_repair.untried_wait AND due_at < 'infinity'
                ORDER BY due_at DESC, token DESC
                LIMIT clock_repair.most
                  FOR UPDATE SKIP LOCKED) AS last
         WHERE last.attempt = 0 OR last.due_at > now() + clock_repair.max_wait
    ),
    due AS (
        UPDATE jobs
           SET due_at = moment.now + CASE WHEN attempt = 0 THEN interval '0' ELSE clock_repair.again_after END
          FROM moment
         WHERE token = ANY (ARRAY(SELECT token FROM far))
        RETURNING token
    ),
    leased AS (
        UPDATE batches
           SET claimed_at = moment.now, lease_until = moment.now
               + CASE WHEN isfinite(lease_until) AND isfinite(claimed_at) AND lease_until <= claimed_at + interval '30 days'
                      THEN lease_until - claimed_at ELSE interval '0' END
          FROM moment
         WHERE id = ANY (ARRAY(
               SELECT id
                 FROM batches
                WHERE claimed_at > clock_timestamp() OR lease_until > clock_timestamp() + interval '30 days'
                ORDER BY id LIMIT clock_repair.most FOR UPDATE SKIP LOCKED))
        RETURNING id
    ),
    probed AS (
        UPDATE pauses
           SET probe_at = moment.now
          FROM moment
         WHERE scope = ANY (ARRAY(
               SELECT scope
                 FROM pauses
                WHERE probe_at > clock_timestamp() + clock_repair.max_probe_wait AND probe_at < 'infinity'
                ORDER BY scope LIMIT clock_repair.most FOR UPDATE SKIP LOCKED))
        RETURNING scope
    )
    SELECT (SELECT count(*) FROM due) + (SELECT count(*) FROM leased) + (SELECT count(*) FROM probed) AS moments;
END $$;
