-- Let jobs that are held be sent again: they are due now.
--
-- Binds: tokens (an array).
--
-- Returns the token of each job. The claim still ends one that SES is known to have taken meanwhile.
--
-- Locks: jobs by token, waiting for who holds them.
WITH held AS MATERIALIZED (
    SELECT token
      FROM jobs
     WHERE token = ANY (CAST(:tokens AS bigint[])) AND due_at = 'infinity'
     ORDER BY token
       FOR UPDATE
)
UPDATE jobs SET due_at = clock_timestamp() FROM held WHERE jobs.token = held.token
RETURNING jobs.token
