-- Count what became of mails in the minutes that have closed since, again from the log, a step at a time.
--
-- Arguments: bounds (seconds: the buckets of waits), step (how much is counted at once), reach (how far back at most, after
-- a gap), and keep (for how long minutes are kept): intervals.
--
-- The minute that closed before is counted once more: what was at work then may have been recorded since. So is the one of
-- ten minutes ago, and of an hour: a mail may have been taken back, or its answer come late. What is ahead was counted
-- before the clock was set back, and is counted again when its time comes. How far was counted until then tells nothing any
-- more, nor what was forgotten: all that is within reach is counted again.
--
-- Returns one row: whether all minutes are counted that have closed.
--
-- Locks: the reading, unless somebody else has it: then they count.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.minutes_recompute(
    bounds double precision[], step interval, reach interval, keep interval
)
    RETURNS TABLE (
        complete boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    closed   timestamptz := date_trunc('minute', clock_timestamp());
    counted  timestamptz;
    ends     timestamptz;
    ago      interval;
    lower    timestamptz;
    upper    timestamptz;
BEGIN
    SELECT minutes_until INTO counted FROM readings FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN QUERY SELECT true;
        RETURN;
    END IF;
    IF counted > closed THEN
        counted := NULL;
    END IF;
    counted := greatest(counted, closed - minutes_recompute.reach);
    ends := least(closed, counted + minutes_recompute.step);
    IF counted = ends THEN
        RETURN QUERY SELECT true;
        RETURN;
    END IF;

    upper := ends;
    FOREACH ago IN ARRAY ARRAY[interval '0', interval '10 minutes', interval '1 hour'] LOOP
        -- After a gap there is enough to do.
        EXIT WHEN ago > interval '0' AND ends - counted > interval '5 minutes';
        upper := least(ends - ago, upper);
        lower := least(counted - greatest(ago, interval '1 minute'), upper);
        DELETE FROM minutes WHERE at >= variables.lower AND at < variables.upper;

        INSERT INTO minutes (at, queue, priority, action, outcome, code, mails, waits)
        WITH mail AS MATERIALIZED (
            SELECT date_trunc('minute', created_at) AS at, CASE WHEN late THEN '' ELSE coalesce(queue, '') END AS queue,
                   CASE WHEN late THEN -1 ELSE coalesce(priority, -1) END AS priority, CAST(action AS text) AS action,
                   CASE WHEN late THEN 'late'
                        WHEN outcome = 'sent' AND retried_at IS NOT NULL THEN 'taken_back'
                        ELSE CAST(outcome AS text) END AS outcome,
                   coalesce(error_code, '') AS code,
                   -- `failed` follows another row of the same call, or is no news of the wait of its own.
                   CASE WHEN NOT late AND outcome <> 'failed' AND isfinite(due_at) AND isfinite(claimed_at)
                        THEN width_bucket(CAST(extract(epoch FROM claimed_at - due_at) AS double precision),
                                          minutes_recompute.bounds) END AS place,
                   count(*) AS mails
              FROM deliveries
             WHERE created_at >= variables.lower AND created_at < variables.upper
             GROUP BY 1, 2, 3, 4, 5, 6, 7
        ),
        kind AS MATERIALIZED (
            SELECT at, queue, priority, action, outcome, code, sum(mails) AS mails
              FROM mail
             GROUP BY at, queue, priority, action, outcome, code
        ),
        waited AS (
            SELECT at, queue, priority, action, outcome, code,
                   array_agg(coalesce(mail.mails, 0) ORDER BY place) AS waits
              FROM kind
             CROSS JOIN generate_series(0, cardinality(minutes_recompute.bounds)) AS place
              LEFT JOIN mail USING (at, queue, priority, action, outcome, code, place)
             GROUP BY at, queue, priority, action, outcome, code
        )
        SELECT at, queue, nullif(priority, -1), action, outcome, code, kind.mails, waits
          FROM kind
          JOIN waited USING (at, queue, priority, action, outcome, code);
        upper := lower;
    END LOOP;

    DELETE FROM minutes WHERE at < variables.closed - minutes_recompute.keep;
    UPDATE readings SET minutes_until = variables.ends;
    RETURN QUERY SELECT ends = closed;
END $$;
