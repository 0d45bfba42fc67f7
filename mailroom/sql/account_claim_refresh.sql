-- Take over asking SES what the account may send; one worker of the fleet does.
--
-- Binds: every, and first_tries (how soon again while nothing is known yet): intervals.
--
-- Returns one row: the number of permits granted so far, or NULL if the answer is not due; and in how many seconds it is
-- due (again). Whoever dies over it, or gets no answer, need do nothing. What is due later than it ever is put off to is
-- due now: the clock was set back. (Never is never: somebody wanted it so.)
--
-- Locks: the account.
WITH taken AS (
    UPDATE ses_account
       SET refresh_due_at = clock_timestamp() + CASE WHEN fetched_at IS NULL THEN :first_tries ELSE :every END,
           fetched_at = CASE WHEN fetched_at > clock_timestamp() THEN clock_timestamp() ELSE fetched_at END
     WHERE refresh_due_at <= now()
        OR (refresh_due_at < 'infinity'
            AND refresh_due_at > clock_timestamp() + CASE WHEN fetched_at IS NULL THEN :first_tries ELSE :every END)
    RETURNING refresh_due_at
)
SELECT CASE WHEN taken.refresh_due_at IS NOT NULL
            THEN (SELECT granted FROM permits WHERE bucket = 'mails') END AS granted,
       CAST(CASE WHEN coalesce(taken.refresh_due_at, ses_account.refresh_due_at) < 'infinity'
                 THEN extract(epoch FROM coalesce(taken.refresh_due_at, ses_account.refresh_due_at) - clock_timestamp())
            END AS double precision) AS due_seconds
  FROM ses_account
  LEFT JOIN taken ON true
