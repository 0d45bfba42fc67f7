-- Show jobs that are held until a person decides, by token.
--
-- Arguments: after_token (where the page before ended; NULL: the beginning); most (how many).
--
-- Returns a row for each: its token, the account (NULL: the token is gone), queue, priority, action, the attempts charged,
-- and when it was tried last.
--
-- Locks: nothing.
--
-- Plan: made for each call: a stretch of the index of what is held, and a few rows by key for each job.
CREATE OR REPLACE FUNCTION mailroom.browse_held(
    after_token bigint, most integer
)
    RETURNS TABLE (
        token bigint, account bigint, queue text, priority smallint, action text, attempt smallint, tried_at timestamptz
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET enable_memoize = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT page.token, owner.account, page.queue, page.priority, CAST(page.action AS text), page.attempt, tried.at
      FROM (SELECT *
              FROM jobs
             WHERE due_at = 'infinity' AND token > coalesce(browse_held.after_token, 0)
             ORDER BY token
             LIMIT browse_held.most) AS page
      LEFT JOIN LATERAL (SELECT account FROM tokens WHERE tokens.id = page.token LIMIT 1) AS owner ON true
     CROSS JOIN LATERAL (
           SELECT max(created_at) AS at FROM deliveries WHERE deliveries.token = page.token) AS tried
     ORDER BY page.token;
END $$;
