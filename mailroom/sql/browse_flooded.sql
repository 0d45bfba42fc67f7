-- Show accounts for which more mails were asked than they may get, the worst first.
--
-- Arguments: since (a moment); scan_limit (how many attempts are looked at, from the newest on); most (how many accounts).
--
-- Returns a row for each: the account, how many of its mails were not sent for that, when the last was; and in each the
-- moment of the oldest attempt that was looked at, NULL if that was all since then.
--
-- Locks: nothing.
--
-- Plan: pinned. A stretch of the primary key, from its end.
CREATE OR REPLACE FUNCTION mailroom.browse_flooded(
    since timestamptz, scan_limit integer, most integer
)
    RETURNS TABLE (
        account bigint, mails bigint, last_at timestamptz, looked_to timestamptz
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH looked AS MATERIALIZED (
        SELECT deliveries.account, created_at, error_code FROM deliveries ORDER BY id DESC LIMIT browse_flooded.scan_limit
    ),
    edge AS (
        SELECT CASE WHEN count(*) = browse_flooded.scan_limit AND min(created_at) >= browse_flooded.since
                    THEN min(created_at) END AS at
          FROM looked
    ),
    flooded AS (
        SELECT looked.account, count(*) AS mails, max(created_at) AS last_at
          FROM looked
         WHERE error_code IN ('Superseded', 'TooMany') AND created_at >= browse_flooded.since AND looked.account IS NOT NULL
         GROUP BY looked.account
         ORDER BY 2 DESC, 1
         LIMIT browse_flooded.most
    )
    SELECT flooded.account, flooded.mails, flooded.last_at, edge.at
      FROM edge
      LEFT JOIN flooded ON true
     WHERE flooded.account IS NOT NULL OR edge.at IS NOT NULL
     ORDER BY flooded.mails DESC, flooded.account;
END $$;
