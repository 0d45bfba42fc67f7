-- Give permits back that were not used.
--
-- Binds: bucket, unused, granted_at and per_second as they came with the permits.
--
-- A permit that was held is worth less than one that never left: meanwhile the bucket may have filled up where the
-- permit was missing. What the rate can have filled in that time is taken off, and so the bound on what leaves holds as
-- if the permits had never been taken. level may exceed what the bucket holds: it is cut when permits are taken.
-- Where the clock was set back meanwhile, nobody knows how long they were held: they are worth nothing.
--
-- Locks: the bucket.
UPDATE permits
   SET level = level + CASE
           WHEN :granted_at > clock_timestamp() THEN 0
           ELSE greatest(0, :unused - coalesce(CAST(:per_second AS double precision), 0)
                                      * extract(epoch FROM clock_timestamp() - :granted_at))
       END,
       granted = granted - :unused
 WHERE bucket = :bucket
