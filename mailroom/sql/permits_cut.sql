-- Cut the rate, since SES has throttled a call, and empty the bucket.
--
-- Arguments: cut (what is left of the rate), min_rate_factor, recovery_per_second, once_in (an interval: the answers to
-- calls that were in flight together tell one thing).
--
-- Returns a row with the share of the rate that is left, or none if somebody was given it already.
--
-- Locks: the bucket.
--
-- Plan: pinned. With enable_sort off, PostgreSQL finds the newest version of the row by the index of minutes, and reads
-- no older ones.
CREATE OR REPLACE FUNCTION mailroom.permits_cut(
    cut double precision, min_rate_factor double precision, recovery_per_second double precision, once_in
    interval
)
    RETURNS TABLE (
        slowdown double precision
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
    SELECT ctid INTO place FROM permits WHERE bucket = 'mails' ORDER BY minute DESC LIMIT 1 FOR UPDATE;
    RETURN QUERY
    UPDATE permits
       SET slowdown = greatest(permits_cut.min_rate_factor, permits_cut.cut * least(
               1, slowdown + permits_cut.recovery_per_second
                  * greatest(0, extract(epoch FROM clock_timestamp()) - extract(epoch FROM throttled_at)))),
           throttled_at = clock_timestamp(), level = 0, filled_at = clock_timestamp(),
           minute = greatest(minute, CAST(extract(epoch FROM clock_timestamp()) AS bigint) / 60)
     WHERE ctid = variables.place AND (
           throttled_at IS NULL OR throttled_at < clock_timestamp() - permits_cut.once_in
           OR throttled_at > clock_timestamp())  -- it was set back
    RETURNING slowdown;
END $$;
