-- Count the mails of late that may be out, and those of them that perhaps went out twice.
--
-- A mail perhaps went out twice if another call of it was accepted.
--
-- Arguments: since (an interval: how far back), and most (how many attempts are looked at, the newest first).
--
-- Returns one row: unconfirmed, and sent_again.
--
-- Locks: nothing.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.reading_unconfirmed(
    since interval, most integer
)
    RETURNS TABLE (
        unconfirmed bigint, sent_again bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH open AS MATERIALIZED (
        SELECT id, token, fence
          FROM deliveries
         WHERE coalesce(outcome = 'unconfirmed', false) AND created_at > now() - reading_unconfirmed.since
         ORDER BY created_at DESC
         LIMIT reading_unconfirmed.most
    )
    SELECT count(DISTINCT coalesce(open.token, -open.id)),
           count(DISTINCT open.token) FILTER (WHERE again.token IS NOT NULL)
      FROM open
      LEFT JOIN LATERAL (
           SELECT deliveries.token
             FROM deliveries
            WHERE deliveries.token = open.token AND deliveries.outcome = 'sent' AND deliveries.error_code IS NULL
              AND deliveries.fence IS DISTINCT FROM open.fence
            LIMIT 1) AS again ON true;
END $$;
