-- The least that a claim can do: take the jobs at the head of the queue, open a batch, and fetch what is to be sent.
WITH taken AS (
    DELETE FROM jobs
     WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM jobs
            WHERE queue = 'mailroom' AND priority = 2 AND action = 'activation' AND due_at <= now()
            ORDER BY due_at, token
            LIMIT %(limit)s
              FOR UPDATE SKIP LOCKED))
    RETURNING token, attempt
),
batch AS (
    INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)
    SELECT 'mailroom', 'floor', 'activation', 2, now(), array_agg(token), array_agg(attempt),
           now() + interval '30 seconds'
      FROM taken
    HAVING count(*) > 0
    RETURNING id
)
SELECT (SELECT id FROM batch) AS batch, taken.token, tokens.account, accounts.email, accounts.login, tokens.secret
  FROM taken
  JOIN tokens ON tokens.id = taken.token
  JOIN accounts ON accounts.id = tokens.account
