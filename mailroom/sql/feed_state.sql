-- Say whether SES is heard: whether there is a feed of events, and whether it tells what becomes of mails.
--
-- Arguments: silence (an interval: for how long a mail may be out without an event of any).
--
-- Returns one row: for how many seconds the queue of events has not been read, and no event of ours been absorbed
-- (NULL: never); whether mails went out that long ago, and nothing was heard since; whether it is live: heard once, and
-- not silent now; and how many events there were: added, known already, of elsewhere, and unknown. Where its row is
-- gone there was never a feed. What is ahead was written before the clock was set back: nobody knows how long ago that
-- was, and until the queue is read again it counts as long ago.
--
-- Locks: nothing.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables. With
-- enable_sort off, PostgreSQL finds the newest version of the row by the index of minutes, and reads no older ones.
CREATE OR REPLACE FUNCTION mailroom.feed_state(
    silence interval
)
    RETURNS TABLE (
        polled_seconds double precision, heard_seconds double precision, silent boolean, live boolean,
        added bigint, known bigint, elsewhere bigint, unknown bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_sort = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH newest AS MATERIALIZED (
        SELECT feed.polled_at, feed.heard_at, feed.added, feed.known, feed.elsewhere, feed.unknown,
               CASE WHEN last.at < now() - feed_state.silence
                    THEN EXISTS (
                         SELECT FROM deliveries
                          WHERE created_at > last.at
                            AND created_at < now() - feed_state.silence
                            AND outcome = 'sent' AND NOT late AND message_id IS NOT NULL AND error_code IS NULL
                          LIMIT 1)
                    ELSE false END AS silent
          FROM (VALUES (true)) AS always
          LEFT JOIN LATERAL (SELECT * FROM feed ORDER BY minute DESC LIMIT 1) AS feed ON true
         CROSS JOIN LATERAL (SELECT coalesce(feed.heard_at, feed.polled_at) AS at) AS noted
         CROSS JOIN LATERAL (SELECT CASE WHEN noted.at > clock_timestamp() THEN '-infinity' ELSE noted.at END AS at) AS last
         LIMIT 1
    )
    SELECT CAST(CASE WHEN polled_at IS NOT NULL
                     THEN least(greatest(extract(epoch FROM clock_timestamp()) - extract(epoch FROM polled_at), -1e9), 1e9) END
                AS double precision),
           CAST(CASE WHEN heard_at IS NOT NULL
                     THEN least(greatest(extract(epoch FROM clock_timestamp()) - extract(epoch FROM heard_at), -1e9), 1e9) END
                AS double precision),
           newest.silent, heard_at IS NOT NULL AND NOT newest.silent, coalesce(newest.added, 0),
           coalesce(newest.known, 0), coalesce(newest.elsewhere, 0), coalesce(newest.unknown, 0)
      FROM newest;
END $$;
