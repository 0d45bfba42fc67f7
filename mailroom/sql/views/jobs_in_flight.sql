-- Jobs that a worker has claimed and not settled. `at` is when; after lease_until another one may take them.
CREATE OR REPLACE VIEW mailroom.jobs_in_flight AS
SELECT held.token, CAST(action AS text) AS action, 'in flight' AS state, claimed_at AS at, held.attempt, queue, priority,
       id AS batch, worker,
       lease_until
  FROM batches
 CROSS JOIN LATERAL unnest(tokens, attempts) AS held (token, attempt);
