-- Give permits back that were not used.
--
-- Arguments: bucket, unused, granted_at and per_second as they came with the permits.
--
-- A permit that was held is worth less than one that never left: meanwhile the bucket may have filled up where the
-- permit was missing. What the rate can have filled in that time is taken off, and so the bound on what leaves holds as
-- if the permits had never been taken. level may exceed what the bucket holds: it is cut when permits are taken.
-- Where the clock was set back meanwhile, nobody knows how long they were held: they are worth nothing.
--
-- Locks: the bucket.
--
-- Plan: pinned. With enable_sort off, PostgreSQL finds the newest version of the row by the index of minutes, and reads
-- no older ones.
CREATE OR REPLACE FUNCTION mailroom.permits_return(
    bucket text, unused bigint, granted_at timestamptz, per_second double precision
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_sort = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    place tid;
BEGIN
    -- By place, in a statement of its own: it sees the version that was waited for.
    SELECT ctid INTO place FROM permits WHERE bucket = permits_return.bucket ORDER BY minute DESC LIMIT 1 FOR UPDATE;
    UPDATE permits
       SET level = level + CASE
               WHEN permits_return.granted_at > clock_timestamp() THEN 0
               ELSE greatest(0, permits_return.unused - coalesce(permits_return.per_second, 0)
                                          * extract(epoch FROM clock_timestamp() - permits_return.granted_at))
           END,
           granted = greatest(0, granted - permits_return.unused),
           minute = greatest(minute, CAST(extract(epoch FROM clock_timestamp()) AS bigint) / 60)
     WHERE ctid = variables.place;
END $$;
