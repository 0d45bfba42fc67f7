-- Jobs that wait, and jobs that are held until a person decides.
--
-- `at` is when a job is due; of one that is held, when it was last tried.
CREATE OR REPLACE VIEW mailroom.waiting_jobs AS
SELECT token, CAST(action AS text) AS action,
       CASE WHEN due_at = 'infinity' THEN 'held' ELSE 'waiting' END AS state,
       CASE WHEN due_at = 'infinity' THEN (SELECT max(created_at) FROM deliveries WHERE deliveries.token = jobs.token)
            ELSE due_at END AS at,
       attempt, queue, priority, due_at
  FROM jobs;
