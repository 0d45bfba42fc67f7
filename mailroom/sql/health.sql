-- See what will make a queue suffer.
--
-- Arguments: waits (a boolean: whether to look how long jobs have waited, from the beginning of each lane).
--
-- Returns one row: whose transaction is the oldest that keeps rows from being vacuumed, for how many seconds (NULL: its
-- session belongs to a role whose times are hidden from this one) and how many transactions ago; the dead rows of jobs;
-- whether autovacuum works on them; for how many seconds the batch that is furthest past its lease has been so; and for
-- each priority in which a job is due, how long the oldest has been.
--
-- Locks: nothing. It needs no right that the worker lacks.
CREATE OR REPLACE FUNCTION mailroom.health(
    waits boolean
)
    RETURNS TABLE (
        holder text, held_seconds double precision, held_transactions integer, dead_jobs bigint, vacuumed
        boolean, overdue_seconds double precision, priorities integer[], waited_seconds double precision[]
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE queue AS (
        SELECT min(queue) AS name FROM jobs WHERE health.waits
        UNION ALL
        SELECT (SELECT min(queue) FROM jobs WHERE queue > queue.name) FROM queue WHERE queue.name IS NOT NULL
    ),
    holder AS (
        SELECT 'session ' || pid AS who, greatest(age(backend_xmin), age(backend_xid)) AS transactions,
               clock_timestamp() - xact_start AS held
          FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND coalesce(backend_xmin, backend_xid) IS NOT NULL
           AND (datname = current_database() OR datname IS NULL)
           AND backend_type IS DISTINCT FROM 'autovacuum worker'
        UNION ALL
        SELECT 'a prepared transaction', age(transaction), clock_timestamp() - prepared
          FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT 'replication slot ' || slot_name, age(xmin), NULL
          FROM pg_replication_slots WHERE xmin IS NOT NULL
    ),
    oldest_holder AS (
        SELECT * FROM holder ORDER BY held DESC NULLS LAST, transactions DESC LIMIT 1
    ),
    oldest_job AS (
        SELECT lane.priority, max(clock_timestamp() - head.due_at) AS waited
          FROM queue
         CROSS JOIN (SELECT of.priority, name AS action FROM generate_series(0, 3) AS of (priority), actions) AS lane
         CROSS JOIN LATERAL (
               SELECT due_at
                 FROM jobs
                WHERE jobs.queue = queue.name AND jobs.priority = lane.priority AND jobs.action = lane.action
                  AND due_at <= clock_timestamp() AND health.waits
                ORDER BY due_at
                LIMIT 1) AS head
         GROUP BY lane.priority
    )
    SELECT (SELECT who FROM oldest_holder) AS holder,
           CAST(extract(epoch FROM (SELECT held FROM oldest_holder)) AS double precision) AS held_seconds,
           (SELECT max(transactions) FROM holder) AS held_transactions,
           pg_stat_get_dead_tuples('jobs'::regclass) AS dead_jobs,
           current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean AND NOT EXISTS (
               SELECT FROM pg_class CROSS JOIN LATERAL pg_options_to_table(reloptions)
                WHERE pg_class.oid = 'jobs'::regclass
                  AND CASE WHEN option_name = 'autovacuum_enabled' THEN NOT option_value::boolean END  -- in this order
               ) AS vacuumed,
           CAST(coalesce((
               SELECT least(extract(epoch FROM clock_timestamp()) - extract(epoch FROM lease_until), 1e9)
                 FROM batches WHERE lease_until < clock_timestamp() ORDER BY lease_until LIMIT 1), 0)
               AS double precision) AS overdue_seconds,
           ARRAY(SELECT priority FROM oldest_job ORDER BY priority) AS priorities,
           ARRAY(SELECT CAST(extract(epoch FROM waited) AS double precision) FROM oldest_job ORDER BY priority) AS waited_seconds;
END $$;
