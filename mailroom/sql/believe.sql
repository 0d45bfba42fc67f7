-- Act on acceptances that came after their batch had been rescued. What is held and was accepted is due, so that the next
-- claim ends it as sent; what had failed and was accepted was sent.
--
-- Binds: horizon (an interval: how old an acceptance may be).
--
-- Only this sweep does so, from the record, whatever came first: a settlement that is told twice, or told beside a rescue,
-- decides nothing. A failure that an operator has taken back, or takes back at this moment, is left to its new job.
--
-- Returns one row: how many were freed, and how many became sent.
--
-- Locks: jobs that are held, by token, then deliveries by id; waits for who holds them.
WITH accepted AS MATERIALIZED (
    SELECT DISTINCT ON (token) token, batch, fence, message_id
      FROM deliveries
     WHERE late AND outcome = 'sent' AND token IS NOT NULL AND created_at > now() - CAST(:horizon AS interval)
     ORDER BY token, created_at
),
held AS MATERIALIZED (
    SELECT token
      FROM jobs
     WHERE token = ANY (ARRAY(SELECT token FROM accepted)) AND due_at = 'infinity'
     ORDER BY token
       FOR UPDATE
),
freed AS (
    UPDATE jobs SET due_at = clock_timestamp() FROM held WHERE jobs.token = held.token
    RETURNING jobs.token
),
failed AS MATERIALIZED (
    SELECT id
      FROM deliveries
     WHERE token = ANY (ARRAY(SELECT token FROM accepted))
       AND outcome = 'failed' AND NOT late AND retried_at IS NULL
     ORDER BY id
       FOR UPDATE
),
taken_back AS (
    UPDATE deliveries SET retried_at = clock_timestamp() FROM failed
     WHERE deliveries.id = failed.id
    RETURNING deliveries.token, deliveries.account, deliveries.action, deliveries.attempt
),
amended AS (
    INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, message_id, error_code)
    SELECT token, account, batch, fence, action, 'sent', attempt, message_id, 'AcceptedLate'
      FROM taken_back
      JOIN accepted USING (token)
    RETURNING token
)
SELECT (SELECT count(*) FROM freed) AS freed, (SELECT count(*) FROM amended) AS amended
 WHERE sees_every_row()
