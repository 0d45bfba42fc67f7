-- Take it upon oneself to ask SES what the account may send; one worker of the fleet does.
--
-- Binds: every, and first_tries (how soon again while nothing is known yet): intervals.
--
-- Returns the number of permits granted so far, or no row if the answer is not due. Whoever dies over it, or gets no
-- answer, need do nothing.
--
-- Locks: the account.
UPDATE ses_account
   SET refresh_due_at = clock_timestamp() + CASE WHEN fetched_at IS NULL THEN :first_tries ELSE :every END
 WHERE refresh_due_at <= now()
RETURNING (SELECT granted FROM permits WHERE bucket = 'mails') AS granted
