-- Take note that a worker lives, and forget those that have not been seen for long.
--
-- Arguments: name (of this process alone); queue, version, senders, busy (how many of them have jobs), listening (NULL: it
-- does not listen at all) and feeding (it reads the events of SES), as they are now; and forget_after (an interval).
--
-- A moment that is ahead was written before the clock was set back: whoever lives is seen again in a moment.
--
-- Locks: its own row, and then those that it forgets, skipping what others hold.
CREATE OR REPLACE FUNCTION mailroom.worker_seen(
    name text, queue text, version text, senders integer, busy integer, listening boolean, feeding boolean,
    forget_after interval
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO workers (name, queue, version, started_at, seen_at, senders, busy, listening, feeding)
    VALUES (worker_seen.name, worker_seen.queue, worker_seen.version, clock_timestamp(), clock_timestamp(),
            worker_seen.senders, worker_seen.busy, worker_seen.listening, worker_seen.feeding)
    ON CONFLICT ON CONSTRAINT workers_pkey DO UPDATE
       SET queue = excluded.queue, version = excluded.version, seen_at = clock_timestamp(),
           started_at = least(workers.started_at, clock_timestamp()),
           senders = excluded.senders, busy = excluded.busy, listening = excluded.listening, feeding = excluded.feeding;

    DELETE FROM workers
     WHERE name = ANY (ARRAY(
           SELECT name
             FROM workers
            WHERE seen_at < clock_timestamp() - worker_seen.forget_after
               OR seen_at > clock_timestamp() + interval '1 minute'
              FOR UPDATE SKIP LOCKED));
END $$;
