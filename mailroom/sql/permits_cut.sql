-- Cut the rate, since SES has throttled a call, and empty the bucket.
--
-- Binds: cut (what is left of the rate), min_rate_factor, recovery_per_second, once_in (an interval: the answers to calls
-- that were in flight together tell one thing).
--
-- Returns a row with the share of the rate that is left, or none if somebody was given it already.
--
-- Locks: the bucket.
UPDATE permits
   SET slowdown = greatest(:min_rate_factor, :cut * least(
           1, slowdown + :recovery_per_second * greatest(0, extract(epoch FROM clock_timestamp() - throttled_at)))),
       throttled_at = clock_timestamp(), level = 0, filled_at = clock_timestamp()
 WHERE bucket = 'mails' AND (
       throttled_at IS NULL OR throttled_at < clock_timestamp() - :once_in
       OR throttled_at > clock_timestamp())  -- it was set back
RETURNING slowdown
