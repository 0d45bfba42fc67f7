-- Show jobs of one lane that are not held, as they will leave.
--
-- Arguments: queue, priority and action; since and until (only what is due from the one and before the other; NULL: all);
-- after_due_at and after_token (where the page before ended; NULL: the beginning); most (how many).
--
-- Returns a row for each: its token, the account (NULL: the token is gone), when it is due, and the attempts charged.
--
-- Locks: nothing.
--
-- Plan: pinned. A stretch of the claim index, and a token by key for each job, however many there are.
CREATE OR REPLACE FUNCTION mailroom.browse_lane(
    queue text, priority smallint, action text, since timestamptz, until timestamptz, after_due_at timestamptz,
    after_token bigint, most integer
)
    RETURNS TABLE (
        token bigint, account bigint, due_at timestamptz, attempt smallint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET enable_memoize = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    begins_at    timestamptz := greatest(browse_lane.since, browse_lane.after_due_at, '-infinity');
    begins_token bigint := CASE WHEN browse_lane.after_due_at >= begins_at THEN browse_lane.after_token ELSE 0 END;
    ends_at      timestamptz := least(browse_lane.until, 'infinity');
BEGIN
    RETURN QUERY
    SELECT page.token, owner.account, page.due_at, page.attempt
      FROM (SELECT token, due_at, attempt
              FROM jobs
             WHERE queue = browse_lane.queue AND priority = browse_lane.priority AND action = browse_lane.action
               AND (due_at, token) > (variables.begins_at, variables.begins_token)
               AND due_at < variables.ends_at
             ORDER BY due_at, token
             LIMIT browse_lane.most) AS page
      LEFT JOIN LATERAL (SELECT account FROM tokens WHERE tokens.id = page.token LIMIT 1) AS owner ON true
     ORDER BY page.due_at, page.token;
END $$;
