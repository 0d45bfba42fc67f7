-- Take over asking SES what the account may send; one worker of the fleet does.
--
-- Arguments: every, and first_tries (how soon again while nothing is known yet): intervals.
--
-- Returns one row: the number of permits granted so far, or NULL if the answer is not due; and in how many seconds it
-- is due (again). A worker that dies over it, or gets no answer, need do nothing. If it is due later than it is ever
-- put off to, the clock was set back, and it is due now. (`infinity` stays: somebody wanted it so.)
--
-- Locks: the account.
--
-- Plan: pinned. With enable_sort off, PostgreSQL finds the newest version of the row of permits by the index of
-- minutes, and reads no older ones.
CREATE OR REPLACE FUNCTION mailroom.account_claim_refresh(
    every interval, first_tries interval
)
    RETURNS TABLE (
        granted bigint, due_seconds double precision
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_sort = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH taken AS (
        UPDATE ses_account
           SET refresh_due_at = clock_timestamp() + CASE WHEN fetched_at IS NULL THEN account_claim_refresh.first_tries
                                                         ELSE account_claim_refresh.every END,
               fetched_at = CASE WHEN fetched_at > clock_timestamp() THEN clock_timestamp() ELSE fetched_at END
         WHERE refresh_due_at <= now()
            OR (refresh_due_at < 'infinity'
                AND refresh_due_at > clock_timestamp() + CASE WHEN fetched_at IS NULL THEN account_claim_refresh.first_tries
                                                              ELSE account_claim_refresh.every END)
        RETURNING refresh_due_at
    )
    SELECT CASE WHEN taken.refresh_due_at IS NOT NULL
                THEN (SELECT granted FROM permits WHERE bucket = 'mails' ORDER BY minute DESC LIMIT 1) END AS granted,
           CAST(CASE WHEN coalesce(taken.refresh_due_at, ses_account.refresh_due_at) < 'infinity'
                     THEN extract(epoch FROM coalesce(taken.refresh_due_at, ses_account.refresh_due_at) - clock_timestamp())
                END AS double precision) AS due_seconds
      FROM ses_account
      LEFT JOIN taken ON true;
END $$;
