-- Take note in the row of the feed that the queue of events was read, and of what was found in it.
--
-- Arguments: ours (whether an event of a mail of ours was among them), and how many were added, known, elsewhere, unknown:
-- see absorb. A count that has come to the end of its type begins again.
--
-- Locks: the feed, until the end of the transaction.
--
-- Plan: pinned. With enable_sort off, PostgreSQL finds the newest version of the row by the index of minutes, and reads
-- no older ones.
CREATE OR REPLACE FUNCTION mailroom.feed_note(
    ours boolean, added bigint, known bigint, elsewhere bigint, unknown bigint
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_sort = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    place       tid;
    count_limit constant bigint := 4611686018427387903;
BEGIN
    -- By place, in a statement of its own: it sees the version that was waited for.
    SELECT ctid INTO place FROM feed ORDER BY minute DESC LIMIT 1 FOR UPDATE;
    UPDATE feed
       SET polled_at = clock_timestamp(),
           heard_at = CASE WHEN feed_note.ours OR heard_at > clock_timestamp() THEN clock_timestamp() ELSE heard_at END,
           added = (added & variables.count_limit) + feed_note.added, known = (known & variables.count_limit) + feed_note.known,
           elsewhere = (elsewhere & variables.count_limit) + feed_note.elsewhere,
           unknown = (unknown & variables.count_limit) + feed_note.unknown,
           minute = greatest(minute, CAST(extract(epoch FROM clock_timestamp()) AS bigint) / 60)
     WHERE ctid = variables.place;
END $$;
