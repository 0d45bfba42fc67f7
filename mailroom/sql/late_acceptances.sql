-- Act on acceptances that came after their batch had been rescued.
--
-- A held job that was accepted becomes due, so that the next claim ends it as sent. A delivery that had failed, or was
-- rejected in another call, and was accepted, becomes `sent`. A held job of which each call is known to have come to
-- nothing becomes due as well, and so does one that can be mailed no more.
--
-- Arguments: horizon (an interval: how old a failure may be), most (how many held jobs, and how many failures, at a time);
-- held_after (a token) and failed_after (a moment): after which it goes on. NULL: all of them are looked at.
--
-- Only this sweep does so, and from the record, whatever came first. So a settlement that is told twice, or beside a
-- rescue, decides nothing. A failure that an operator has taken back, or takes back at this moment, is left to its new
-- job.
--
-- Returns one row: how many were freed, and how many became sent; and after which token and which moment there may be more
-- (NULL: there are no more).
--
-- Locks: jobs that are held, by token, then deliveries by id, skipping what others hold: the next sweep sees those.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.late_acceptances(
    horizon interval, most integer, held_after bigint DEFAULT NULL, failed_after timestamptz DEFAULT NULL
)
    RETURNS TABLE (
        freed bigint, amended bigint, last_held bigint, last_failed timestamptz
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    -- It begins with what may change, which is little, and asks of each whether it was accepted: late acceptances may be many.
    WITH waiting AS MATERIALIZED (
        SELECT token
          FROM jobs
         WHERE due_at = 'infinity' AND (late_acceptances.held_after IS NULL OR token > late_acceptances.held_after)
         ORDER BY token
         LIMIT CASE WHEN late_acceptances.held_after IS NOT NULL THEN late_acceptances.most END
    ),
    unsent AS MATERIALIZED (  -- all of a moment, since the next begins after it
        SELECT token, id, created_at
          FROM deliveries
         WHERE outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL
           AND created_at > greatest(now() - late_acceptances.horizon, late_acceptances.failed_after)
         ORDER BY created_at
         FETCH FIRST (CASE WHEN late_acceptances.failed_after IS NULL THEN 9223372036854775807
                           ELSE late_acceptances.most END) ROWS WITH TIES
    )
    SELECT applied.freed, applied.amended,
           (SELECT max(token) FROM waiting HAVING count(*) >= late_acceptances.most) AS last_held,
           (SELECT max(created_at) FROM unsent HAVING count(*) >= late_acceptances.most) AS last_failed
      FROM late_acceptances_apply(
           ARRAY(SELECT token FROM waiting), ARRAY(SELECT token FROM unsent ORDER BY id),
           ARRAY(SELECT id FROM unsent ORDER BY id), late_acceptances.most) AS applied;
END $$;
