-- Take the right to try, with one mail, whether a pause can end.
--
-- Binds: first_wait and longest_wait (intervals).
--
-- The next try is set at once, later and later: whoever tries and finds the fault still there, or dies, need do nothing.
-- Returns the scope to try, or no row if none is due.
--
-- Locks: the pause, skipping one that another is taking.
UPDATE pauses
   SET probes = probes + 1,
       probe_at = clock_timestamp() + least(:first_wait * power(2, least(probes + 1, 16)), :longest_wait)
 WHERE scope = (SELECT scope FROM pauses WHERE probe_at <= now() ORDER BY probe_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING scope
