-- Count what a reading tells, each number at a cost that does not grow with the queue or the log.
--
-- Arguments: reach (an interval: how far back attempts are counted one by one where no minutes are); silence (as
-- feed_state has it); recovery_per_second (as permits_take has it); format (of the reading, and of the one before it
-- that can be read); and began (when the work on it did; NULL: now).
--
-- Returns one row: the reading, as the class Reading of mailroom/ops/reading.py has it. failed_at, failure and warnings
-- are empty: they are filled in when the row is read. They are there because the release before reads it too.
--
-- In a lane at most 10,001 jobs of each kind are counted, and at most 1,000 workers are listed, those seen last. Two
-- numbers cost much and change slowly: the rates are counted once a minute, and suppressed addresses once in ten
-- minutes; in between they are those of the reading before. A moment that no program can hold becomes the nearest that
-- one can.
--
-- All of it is of one snapshot, that of the statement: a job that moves is counted once.
--
-- Locks: nothing.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.reading_count(
    reach interval, silence interval, recovery_per_second double precision, format integer, began timestamptz
)
    RETURNS TABLE (
        counted json
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET timezone = 'UTC' AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    most        CONSTANT integer := 10000;
    earliest    CONSTANT timestamptz := '1000-01-01 00:00+00';
    latest      CONSTANT timestamptz := '9000-01-01 00:00+00';
    began       CONSTANT timestamptz := coalesce(reading_count.began, clock_timestamp());
    minute      CONSTANT timestamptz := date_trunc('minute', now());
    kept        json;  -- the reading before
    kept_at     timestamptz;
    until       timestamptz;  -- minutes are counted until then, and attempts one by one
    workers     json;
    lanes       json;
    waited      json;
    jobs        bigint;
    flight      json;
    pauses      json;
    buckets     json;
    account     json;
    outcomes    json;
    unconfirmed record;
    health      json;
    feed        json;
    suppressed  json;
    rates       json;
BEGIN
    SELECT CASE WHEN found->>'format' = CAST(reading_count.format AS text) THEN found END, read_at,
           greatest(least(coalesce(minutes_until, now() - interval '24 hours'), variables.minute),
                    now() - least(interval '24 hours', reading_count.reach))
      INTO variables.kept, variables.kept_at, variables.until
      FROM readings;

    SELECT coalesce(json_agg(json_build_object(
               'name', name, 'queue', queue, 'version', version,
               'started_at', least(greatest(started_at, variables.earliest), variables.latest),
               'seen_at', least(greatest(seen_at, variables.earliest), variables.latest),
               'senders', senders, 'busy', busy, 'listening', listening, 'feeding', feeding) ORDER BY queue, name), '[]')
      INTO variables.workers
      FROM (SELECT * FROM workers ORDER BY seen_at DESC LIMIT 1000) AS newest;

    -- What is counted of lanes of which not all are: what PostgreSQL believes. Statistics that a crash of the server has reset
    -- know only what came after it, until the table is vacuumed or analysed again; the planner goes by how full its pages
    -- were then.
    WITH known AS MATERIALIZED (
        SELECT each->>'queue' AS queue
          FROM json_array_elements(CASE json_typeof(variables.kept->'lanes')
                                        WHEN 'array' THEN variables.kept->'lanes' ELSE '[]' END) AS each
         UNION
        SELECT each->>'queue' FROM json_array_elements(variables.workers) AS each
    ),
    lane AS MATERIALIZED (
        SELECT *, greatest(due, later, held) > variables.most AS capped
          FROM reading_lanes(variables.most + 1, ARRAY(SELECT queue FROM known))
    ),
    believed AS (
        SELECT CAST(greatest(
                   pg_stat_get_live_tuples(oid),
                   CASE WHEN coalesce(pg_stat_get_last_vacuum_time(oid), pg_stat_get_last_autovacuum_time(oid),
                                      pg_stat_get_last_analyze_time(oid), pg_stat_get_last_autoanalyze_time(oid)) IS NULL
                        THEN reltuples / greatest(relpages, 1) * pg_relation_size(oid)
                             / CAST(current_setting('block_size') AS integer) END) AS bigint) AS jobs
          FROM pg_class
         WHERE oid = 'jobs'::regclass
    ),
    oldest AS (
        SELECT priority, max(oldest_seconds) AS seconds FROM lane WHERE due > 0 GROUP BY priority
    )
    SELECT coalesce(json_agg(json_build_object(
               'queue', queue, 'priority', priority, 'action', action, 'due', due, 'later', later, 'held', held,
               'capped', capped, 'oldest_seconds', oldest_seconds,
               'head', CASE WHEN due > 0 THEN json_build_object('due_at', head_due_at, 'token', head_token) END)
               ORDER BY queue, priority, action), '[]'),
           greatest(coalesce(CAST(sum(due + later + held) AS bigint), 0),
                    CASE WHEN bool_or(capped) THEN (SELECT jobs FROM believed) END),
           (SELECT coalesce(json_object_agg(priority, seconds ORDER BY priority), '{}') FROM oldest)
      INTO variables.lanes, variables.jobs, variables.waited
      FROM lane;

    -- A difference of two numbers: not every version of PostgreSQL has one of two moments where one is infinite. And it is
    -- finite, since JSON knows no other.
    SELECT json_build_object(
               'batches', batches, 'jobs', jobs, 'overdue', overdue,
               'overdue_seconds', CASE WHEN lease_until IS NULL THEN 0 ELSE CAST(least(greatest(
                   extract(epoch FROM now()) - extract(epoch FROM lease_until), 0), 864000000) AS double precision) END,
               'oldest_seconds', CASE WHEN claimed_at IS NULL THEN 0 ELSE CAST(least(greatest(
                   extract(epoch FROM now()) - extract(epoch FROM claimed_at), 0), 864000000) AS double precision) END)
      INTO variables.flight
      FROM (SELECT count(DISTINCT batches.id) AS batches, count(*) AS jobs,
                   count(DISTINCT batches.id) FILTER (WHERE batches.lease_until < now()) AS overdue,
                   min(batches.lease_until) AS lease_until, min(batches.claimed_at) AS claimed_at
              FROM batches
             CROSS JOIN LATERAL unnest(batches.tokens) AS held) AS counted;

    SELECT coalesce(json_agg(json_build_object(
               'scope', scope, 'code', code, 'reason', reason,
               'seconds', CAST(least(abs(extract(epoch FROM now()) - extract(epoch FROM opened_at)), 864000000)
                               AS double precision),
               'by_hand', probe_at IS NULL AND code NOT IN ('BounceRate', 'ComplaintRate'),
               'opened_at', least(greatest(opened_at, variables.earliest), variables.latest),
               'probe_at', CASE WHEN probe_at IS NOT NULL
                                THEN least(greatest(probe_at, variables.earliest), variables.latest) END)
               ORDER BY opened_at), '[]')
      INTO variables.pauses
      FROM pauses;

    -- What throttling has left of the rate by now: what is kept is how it was with the last throttle.
    SELECT coalesce(json_object_agg(bucket, json_build_object(
               'granted', granted,
               'slowdown', CASE WHEN throttled_at IS NULL THEN slowdown
                                ELSE least(1, slowdown + reading_count.recovery_per_second * CAST(least(greatest(
                                     extract(epoch FROM now()) - extract(epoch FROM throttled_at), 0), 864000000)
                                     AS double precision)) END,
               'level', level) ORDER BY bucket), '{}')
      INTO variables.buckets
      FROM permits;

    SELECT json_build_object(
               'seen_at', CASE WHEN said.fetched_at IS NOT NULL
                               THEN least(greatest(said.fetched_at, variables.earliest), variables.latest) END,
               'max_send_rate', said.max_send_rate, 'max_24_hour_send', said.max_24_hour_send,
               'sent_last_24_hours', said.sent_last_24_hours,
               'granted_since', greatest(0, permits.granted - said.granted_before),
               'sending_enabled', said.sending_enabled, 'production_access', said.production_access,
               'enforcement', said.enforcement)
      INTO variables.account
      FROM (VALUES (true)) AS always
      LEFT JOIN ses_account AS said ON true
      LEFT JOIN permits ON permits.bucket = 'mails';

    -- By the names that minutes_recompute has.
    WITH counted AS (
        SELECT outcome, sum(mails) FILTER (WHERE at >= variables.minute - interval '1 hour') AS hour, sum(mails) AS day
          FROM minutes
         WHERE at >= variables.minute - interval '24 hours' AND at < variables.until
         GROUP BY outcome
         UNION ALL
        SELECT CASE WHEN late THEN 'late'
                    WHEN outcome = 'sent' AND retried_at IS NOT NULL THEN 'taken_back'
                    ELSE CAST(outcome AS text) END,
               count(*) FILTER (WHERE created_at > now() - interval '1 hour'), count(*)
          FROM deliveries
         WHERE created_at >= variables.until
         GROUP BY 1
    ),
    total AS (
        SELECT outcome COLLATE "C" AS outcome, sum(hour) AS hour, sum(day) AS day FROM counted GROUP BY 1
    )
    SELECT json_build_object(
               'hour', coalesce(json_object_agg(outcome, hour ORDER BY outcome) FILTER (WHERE hour > 0), '{}'),
               'day', coalesce(json_object_agg(outcome, day ORDER BY outcome) FILTER (WHERE day > 0), '{}'))
      INTO variables.outcomes
      FROM total;

    SELECT * INTO variables.unconfirmed FROM reading_unconfirmed(interval '24 hours', variables.most + 1);

    SELECT json_build_object(
               'holder', holder, 'held_seconds', held_seconds, 'held_transactions', held_transactions,
               'dead_jobs', dead_jobs, 'vacuumed', vacuumed, 'overdue_seconds', overdue_seconds,
               'waited_seconds', variables.waited)
      INTO variables.health
      FROM health(false);

    SELECT json_build_object(
               'polled_seconds', abs(polled_seconds), 'heard_seconds', abs(heard_seconds), 'silent', silent, 'live', live,
               'added', added, 'known', known, 'elsewhere', elsewhere, 'unknown', unknown)
      INTO variables.feed
      FROM feed_state(reading_count.silence);

    IF floor(extract(epoch FROM variables.kept_at) / 600) = floor(extract(epoch FROM now()) / 600) THEN
        variables.suppressed := variables.kept#>'{feedback,suppressed}';
    END IF;
    IF json_typeof(variables.suppressed) IS DISTINCT FROM 'object' THEN
        SELECT coalesce(json_object_agg(reason, addresses ORDER BY reason), '{}')
          INTO variables.suppressed
          FROM (SELECT reason, count(*) AS addresses FROM suppressions WHERE reason IS NOT NULL GROUP BY reason) AS counted;
    END IF;

    IF floor(extract(epoch FROM variables.kept_at) / 60) = floor(extract(epoch FROM now()) / 60) THEN
        variables.rates := variables.kept#>'{feedback,reputation}';
    END IF;
    IF json_typeof(variables.rates) IS DISTINCT FROM 'object' THEN
        SELECT coalesce(json_object_agg(period, json_build_object(
                   'mails', mails, 'bounces', bounces, 'complaints', complaints,
                   'bounce_rate', CASE WHEN mails > 0 THEN CAST(bounces AS double precision) / mails ELSE 0 END,
                   'complaint_rate', CASE WHEN mails > 0 THEN CAST(complaints AS double precision) / mails ELSE 0 END)
                   ORDER BY period DESC), '{}')
          INTO variables.rates
          FROM reputation(NULL);
    END IF;

    RETURN QUERY SELECT json_build_object(
        'format', reading_count.format, 'read_at', now(), 'lanes', lanes, 'jobs_estimate', jobs, 'flight', flight,
        'pauses', pauses, 'buckets', buckets, 'account', account, 'workers', workers, 'outcomes', outcomes,
        'unconfirmed_day', variables.unconfirmed.unconfirmed, 'sent_again_day', variables.unconfirmed.sent_again,
        'health', health, 'feedback', json_build_object('feed', feed, 'suppressed', suppressed, 'reputation', rates),
        'priorities', (SELECT json_object_agg(name, priority ORDER BY number) FROM actions),
        'own_senders', (SELECT coalesce(json_agg(name ORDER BY number) FILTER (WHERE source IS NOT NULL), '[]') FROM actions),
        'seconds', extract(epoch FROM clock_timestamp() - variables.began),
        'failed_at', NULL, 'failure', '', 'warnings', json_build_object());
END $$;
