-- Take waiting jobs out of the queue, for good: they are cancelled, and on record as dropped.
--
-- Binds: tokens (an array).
--
-- Returns the token of each job. What is in flight or finished is left as it is.
--
-- Locks: jobs by token, waiting for who holds them.
WITH waiting AS MATERIALIZED (
    SELECT token FROM jobs WHERE token = ANY (CAST(:tokens AS bigint[])) ORDER BY token FOR UPDATE
),
taken AS (
    DELETE FROM jobs USING waiting WHERE jobs.token = waiting.token
    RETURNING jobs.token, jobs.action, jobs.attempt
)
INSERT INTO deliveries (token, account, action, outcome, attempt, error_code, error)
SELECT taken.token, tokens.account, taken.action, 'cancelled', taken.attempt, 'Dropped', 'taken out by an operator'
  FROM taken
  LEFT JOIN tokens ON tokens.id = taken.token
RETURNING token
