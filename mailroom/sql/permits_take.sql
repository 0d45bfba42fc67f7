-- Take up to `wanted` permits from a bucket.
--
-- Binds: bucket; wanted; own_rate (permits a second that the settings allow, NULL: they say nothing); urgent; and of
-- the rate: default_share (of the account's rate, where the settings say nothing), unknown_rate (before the account is
-- known), capacity_seconds (how much the bucket holds), reserve (the share of it that is for urgent mail), quota_reserve
-- (the share of the 24-hour quota that is), recovery_per_second (how fast the rate creeps back), quota_stale_after (an
-- interval: what SES said of the quota counts no longer, and then SES has to say when it is used up).
--
-- Returns one row: how many were granted; whether the quota leaves anything to other than urgent mail; the rate that
-- counts when permits come back, NULL without a limit; the moment; and the seconds after which to ask again.
--
-- Locks: the bucket. The clock is read after the lock: whoever waited for it must not count the wait twice. Moments that
-- are ahead of it were written before it was set back: from then on it is now that counts.
WITH held AS MATERIALIZED (
    SELECT * FROM permits WHERE bucket = :bucket FOR UPDATE
),
clock AS MATERIALIZED (
    SELECT held.*, clock_timestamp() AS now FROM held
),
-- What the account allows; of bulk calls SES tells nothing. -1 is no limit.
account AS MATERIALIZED (
    SELECT CASE WHEN max_send_rate >= 0 THEN greatest(max_send_rate, 0.01) END AS max_send_rate,
           fetched_at IS NOT NULL AS known,
           CASE WHEN max_24_hour_send >= 0 AND fetched_at > clock_timestamp() - CAST(:quota_stale_after AS interval)
                THEN max_24_hour_send END AS max_24_hour_send,
           sent_last_24_hours, granted_before, refresh_due_at
      FROM ses_account
     WHERE :bucket = 'mails'
),
-- least() passes over a NULL: no limit, or never throttled.
limits AS MATERIALIZED (
    SELECT clock.*,
           CASE WHEN :bucket <> 'mails' THEN CAST(:own_rate AS double precision)
                WHEN NOT account.known THEN coalesce(CAST(:own_rate AS double precision), :unknown_rate)
                WHEN CAST(:own_rate AS double precision) IS NULL THEN account.max_send_rate * :default_share
                ELSE least(CAST(:own_rate AS double precision), account.max_send_rate)
           END AS cap,
           CAST(least(1, slowdown + :recovery_per_second * greatest(0, extract(epoch FROM clock.now - throttled_at)))
                AS double precision) AS pace,
           account.max_24_hour_send - account.sent_last_24_hours
               - (clock.granted - account.granted_before) AS quota_left,
           account.max_24_hour_send * :quota_reserve AS quota_reserved,
           extract(epoch FROM least(greatest(account.refresh_due_at, clock.now + interval '1 second'),
                                    clock.now + interval '1 minute') - clock.now) AS refresh_seconds
      FROM clock
      LEFT JOIN account ON true
),
-- At least one permit must fit in, or none could ever be had.
filled AS MATERIALIZED (
    SELECT sized.*,
           CASE WHEN rate IS NOT NULL
                THEN least(capacity, level + rate * greatest(0, extract(epoch FROM now - filled_at))) END AS filled
      FROM (SELECT limits.*, cap * pace AS rate,
                   CASE WHEN cap IS NOT NULL THEN greatest(1, cap * pace * :capacity_seconds) END AS capacity
              FROM limits) AS sized
),
-- The reserve never leaves less than one permit to take. A billionth, for what floating point makes of a whole one.
room AS MATERIALIZED (
    SELECT filled.*,
           CASE WHEN :urgent THEN 0 ELSE least(capacity * :reserve, capacity - 1) END AS reserved,
           quota_left - CASE WHEN :urgent THEN 0 ELSE quota_reserved END AS quota
      FROM filled
),
choice AS MATERIALIZED (
    SELECT room.*,
           CAST(greatest(0, least(:wanted, floor(filled - reserved + 1e-9), floor(quota))) AS integer) AS grants
      FROM room
),
taken AS (
    UPDATE permits
       SET level = coalesce(choice.filled - choice.grants, 0), filled_at = choice.now,
           throttled_at = CASE WHEN choice.throttled_at > choice.now THEN choice.now ELSE choice.throttled_at END,
           granted = choice.granted + choice.grants
      FROM choice
     WHERE permits.bucket = choice.bucket
       AND (choice.grants > 0 OR choice.filled_at > choice.now OR choice.throttled_at > choice.now)
)
SELECT grants, coalesce(quota_left - quota_reserved < 1, false) AS only_urgent, cap AS per_second, now AS granted_at,
       CAST(CASE WHEN quota < 1 THEN refresh_seconds
                 ELSE greatest(0, (1 + reserved - filled + grants) / rate) END AS double precision) AS wait_seconds
  FROM (VALUES (true)) AS always
  LEFT JOIN choice ON true
 WHERE sees_every_row()
