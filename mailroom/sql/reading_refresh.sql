-- Count for the whole fleet, if that is due and nobody else does, and keep what was counted for all.
--
-- Arguments: every (an interval: when the next is due after this one has begun); max_share (of the time, that counting may
-- take: what takes long is due less often); longest (how long it is put off for that at most), and longest_due (how far ahead
-- it ever is due); bounds, step, minutes_reach and minutes_keep (as minutes_recompute has them), and catching_up (an interval:
-- for how long minutes are made up for that closed while nobody counted; the rest is for the next time); reach, silence,
-- recovery_per_second and format (as reading_count has them).
--
-- Returns one row: whether it was its turn. What is due later than it ever is was put off before the clock was set back.
--
-- Whoever dies over it, or fails, has done nothing, and who comes next has the turn; see reading_failed.
--
-- Locks: the reading, unless somebody else has it: then it is theirs. And minutes, as minutes_recompute does.
CREATE OR REPLACE FUNCTION mailroom.reading_refresh(
    every interval, max_share double precision, longest interval, longest_due interval, bounds double precision[],
    step interval, minutes_reach interval, minutes_keep interval, catching_up interval, reach interval, silence interval,
    recovery_per_second double precision, format integer
)
    RETURNS TABLE (
        taken boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    began    CONSTANT timestamptz := clock_timestamp();
    complete boolean := false;
    counted  json;
    took     interval;
BEGIN
    PERFORM FROM readings
      WHERE due_at <= clock_timestamp() OR due_at > clock_timestamp() + reading_refresh.longest_due
        FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false;
        RETURN;
    END IF;

    WHILE NOT variables.complete AND clock_timestamp() <= variables.began + reading_refresh.catching_up LOOP
        SELECT complete INTO variables.complete
          FROM minutes_recompute(reading_refresh.bounds, reading_refresh.step, reading_refresh.minutes_reach,
                                 reading_refresh.minutes_keep);
    END LOOP;

    SELECT counted INTO variables.counted
      FROM reading_count(reading_refresh.reach, reading_refresh.silence, reading_refresh.recovery_per_second,
                         reading_refresh.format, variables.began);

    took := clock_timestamp() - began;
    UPDATE readings
       SET read_at = now(), found = variables.counted, failed_at = NULL, failure = '',
           due_at = clock_timestamp()
                    + least(greatest(reading_refresh.every - took, took / reading_refresh.max_share), reading_refresh.longest);
    RETURN QUERY SELECT true;
END $$;
