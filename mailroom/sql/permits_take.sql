-- Take up to `wanted` permits from a bucket.
--
-- Arguments: bucket; wanted; own_rate (permits a second that the settings allow, NULL: they say nothing); urgent; and of
-- the rate: default_share (of the account's rate, where the settings say nothing), unknown_rate (before the account is
-- known), capacity_seconds (how much the bucket holds), reserve (the share of it that is for urgent mail), quota_reserve
-- (the share of the 24-hour quota that is), recovery_per_second (how fast the rate creeps back), quota_stale_after (an
-- interval: what SES said of the quota counts no longer, and then SES has to say when it is used up); and long_hold, for
-- how long permits may be held where nobody is in need, and how many are `ended`: held for long by whoever asks, and used
-- or given up.
--
-- Returns one row: how many were granted; whether the quota leaves anything to other than urgent mail; the rate that
-- counts when permits come back, NULL without a limit; the moment; the seconds after which to ask again; and whether the
-- permits may be held for long. Where the bucket is gone there is no row. What was granted is counted up to 2^62, and then
-- from the beginning: a count that has come to its end must not stop the mail.
--
-- Locks: the bucket. The clock is read after the lock: whoever waited for it must not count the wait twice. Moments that
-- are ahead of it were written before it was set back: from then on it is now that counts.
--
-- Plan: pinned. With enable_sort off, PostgreSQL finds the newest version of the row by the index of minutes, and reads
-- no older ones.
CREATE OR REPLACE FUNCTION mailroom.permits_take(
    bucket text, wanted integer, own_rate double precision, urgent boolean, default_share double precision,
    unknown_rate double precision, capacity_seconds double precision, reserve double precision,
    quota_reserve double precision, quota_stale_after interval, recovery_per_second double precision,
    long_hold interval, ended integer
)
    RETURNS TABLE (
        grants integer, only_urgent boolean, per_second double precision, granted_at timestamptz,
        wait_seconds double precision, for_long boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_sort = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    place tid;
BEGIN
    -- By place, in a statement of its own: it sees the version that was waited for.
    SELECT ctid INTO place FROM permits WHERE bucket = permits_take.bucket ORDER BY minute DESC LIMIT 1 FOR UPDATE;
    RETURN QUERY
    WITH clock AS MATERIALIZED (
        SELECT permits.*, clock_timestamp() AS now FROM permits WHERE ctid = variables.place
    ),
    -- What the account allows; of bulk calls SES tells nothing. -1 is no limit.
    account AS MATERIALIZED (
        SELECT CASE WHEN max_send_rate >= 0 THEN greatest(max_send_rate, 0.01) END AS max_send_rate,
               fetched_at IS NOT NULL AS known,
               CASE WHEN max_24_hour_send >= 0 AND fetched_at > clock_timestamp() - permits_take.quota_stale_after
                    THEN max_24_hour_send END AS max_24_hour_send,
               sent_last_24_hours, granted_before, refresh_due_at
          FROM ses_account
         WHERE permits_take.bucket = 'mails'
    ),
    -- least() passes over a NULL: no limit, or never throttled.
    limits AS MATERIALIZED (
        SELECT clock.*,
               CASE WHEN permits_take.bucket <> 'mails' THEN permits_take.own_rate
                    WHEN account.known IS NOT TRUE THEN coalesce(permits_take.own_rate, permits_take.unknown_rate)
                    WHEN permits_take.own_rate IS NULL THEN account.max_send_rate * permits_take.default_share
                    ELSE least(permits_take.own_rate, account.max_send_rate)
               END AS cap,
               CAST(least(1, slowdown + permits_take.recovery_per_second
                                * greatest(0, extract(epoch FROM clock.now) - extract(epoch FROM throttled_at)))
                    AS double precision) AS pace,
               account.max_24_hour_send - account.sent_last_24_hours
                   - (clock.granted - account.granted_before) AS quota_left,
               account.max_24_hour_send * permits_take.quota_reserve AS quota_reserved,
               extract(epoch FROM least(greatest(account.refresh_due_at, clock.now + interval '1 second'),
                                        clock.now + interval '1 minute') - clock.now) AS refresh_seconds
          FROM clock
          LEFT JOIN account ON true
    ),
    -- At least one permit must fit in, or none could ever be had. What is held for long still is of what fits in.
    filled AS MATERIALIZED (
        SELECT sized.*,
               CASE WHEN rate IS NOT NULL
                    THEN least(capacity, level + rate * greatest(0, extract(epoch FROM now) - extract(epoch FROM filled_at))) END AS filled
          FROM (SELECT limits.*, cap * pace AS rate, whole,
                       CASE WHEN cap IS NOT NULL THEN greatest(1, whole - long) END AS capacity, long
                  FROM limits
                 CROSS JOIN LATERAL (
                       SELECT greatest(1, cap * pace * permits_take.capacity_seconds) AS whole,
                              CASE WHEN long_held_until > limits.now THEN greatest(0, long_held - permits_take.ended) ELSE 0 END
                                  AS long) AS held_for_long
               ) AS sized
    ),
    -- The reserve never leaves less than one permit to take. A billionth, for what floating point makes of a whole one.
    room AS MATERIALIZED (
        SELECT filled.*,
               CASE WHEN permits_take.urgent THEN 0 ELSE least(capacity * permits_take.reserve, capacity - 1) END AS reserved,
               quota_left - CASE WHEN permits_take.urgent THEN 0 ELSE quota_reserved END AS quota
          FROM filled
    ),
    choice AS MATERIALIZED (
        SELECT room.*,
               CAST(greatest(0, least(permits_take.wanted, floor(filled - reserved + 1e-9), floor(quota))) AS integer) AS grants
          FROM room
    ),
    -- Where the bucket was full nobody is in need, and half of it may be held for long. Without a limit there is no bucket.
    held_long AS MATERIALIZED (
        SELECT choice.*,
               rate IS NULL OR (filled >= capacity AND long + grants <= whole / 2) AS for_long
          FROM choice
    ),
    taken AS (
        UPDATE permits
           SET level = coalesce(choice.filled - choice.grants, 0), filled_at = choice.now,
               throttled_at = CASE WHEN choice.throttled_at > choice.now THEN choice.now ELSE choice.throttled_at END,
               granted = (choice.granted & 4611686018427387903) + choice.grants,
               long_held = CASE WHEN for_long AND rate IS NOT NULL THEN long + grants ELSE long END,
               long_held_until = CASE WHEN for_long AND rate IS NOT NULL THEN choice.now + permits_take.long_hold
                                      ELSE least(choice.long_held_until, choice.now + permits_take.long_hold) END,
               minute = greatest(choice.minute, CAST(extract(epoch FROM choice.now) AS bigint) / 60)
          FROM held_long AS choice
         WHERE permits.ctid = variables.place
           AND (choice.grants > 0 OR choice.filled_at > choice.now OR choice.throttled_at > choice.now)
    )
    SELECT grants, coalesce(quota_left - quota_reserved < 1, false) AS only_urgent, cap AS per_second, now AS granted_at,
           CAST(CASE WHEN quota < 1 THEN refresh_seconds
                     ELSE greatest(0, (1 + reserved - filled + grants) / rate) END AS double precision) AS wait_seconds,
           for_long
      FROM held_long;
END $$;
