-- Count the mails that went out lately, how many of them bounced for good, and how many were complained of.
--
-- Arguments: since (only mails after that moment; NULL: all).
--
-- What SES did not send because it has the address on its list is no bounce and no complaint of ours, and whoever says that
-- a mail is no spam does not complain. A message counts once, whatever is told of it, and how often.
--
-- Returns two rows: `newest`, the newest 1,000 mails, and `day`, those of the last 24 hours (at most the newest 50,000).
--
-- Locks: nothing.
--
-- Plan: pinned. It walks at most 100,000 deliveries down from the newest, and as many bounces and complaints, however many
-- there are.
CREATE OR REPLACE FUNCTION mailroom.reputation(
    since timestamptz
)
    RETURNS TABLE (
        period text, mails bigint, bounces bigint, complaints bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET join_collapse_limit = 1 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH mail AS MATERIALIZED (
        SELECT id, created_at, row_number() OVER () AS nth
          FROM (SELECT id, created_at
                  FROM (SELECT id, created_at, outcome = 'sent' AND NOT late AND retried_at IS NULL AS is_out
                          FROM deliveries
                         ORDER BY id DESC
                         LIMIT 100000) AS looked
                 WHERE is_out AND created_at > coalesce(reputation.since, '-infinity')
                 LIMIT 50000) AS newest
    ),
    periods AS MATERIALIZED (
        SELECT 'newest' AS period, count(*) AS mails, min(id) AS first_id, min(created_at) AS first_at
          FROM mail
         WHERE nth <= 1000
         UNION ALL
        SELECT 'day', count(*), min(id), min(created_at)
          FROM mail
         WHERE created_at > now() - interval '24 hours'
    ),
    -- Of a mail that is settled later than its bounce comes, and of clocks that differ, an hour; and a day, where the clock was
    -- ahead when they left. Which mail it was decides.
    said AS MATERIALIZED (
        SELECT message_id, token, kind
          FROM events
         WHERE coalesce(kind IN ('bounce', 'complaint'), false)  -- as its index has it
           AND at > (SELECT least(min(first_at), now() - interval '24 hours') - interval '1 hour' FROM periods)
           AND CASE kind WHEN 'bounce' THEN type = 'Permanent' ELSE type NOT IN ('not-spam', 'auth-failure') END
           AND subtype <> 'OnAccountSuppressionList'
         ORDER BY at DESC
         LIMIT 100000
    ),
    -- With a LIMIT: a look by index for each.
    counted AS MATERIALIZED (
        SELECT DISTINCT said.message_id, said.kind, logged.id
          FROM said
         CROSS JOIN LATERAL (
               SELECT max(id) AS id
                 FROM (SELECT id
                         FROM deliveries
                        WHERE token = said.token AND message_id = said.message_id AND outcome = 'sent'
                        LIMIT 100) AS found) AS logged
    )
    SELECT periods.period, periods.mails,
           (SELECT count(*) FROM counted WHERE kind = 'bounce' AND id >= first_id),
           (SELECT count(*) FROM counted WHERE kind = 'complaint' AND id >= first_id)
      FROM periods
     ORDER BY periods.period DESC;
END $$;
