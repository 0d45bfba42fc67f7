-- Jobs that wait, and jobs that are held until a person decides. `at` is when a job is due; of one that is held, when it
-- was last tried. A moment that not every program can hold is told as the first of the year 1000 or 9000.
CREATE OR REPLACE VIEW mailroom.waiting_jobs AS
SELECT token, CAST(action AS text) AS action,
       CASE WHEN due_at = 'infinity' THEN 'held' ELSE 'waiting' END AS state,
       CASE WHEN due_at = 'infinity' THEN (SELECT max(created_at) FROM deliveries WHERE deliveries.token = jobs.token)
            ELSE least(greatest(due_at, '1000-01-01 00:00+00'), '9000-01-01 00:00+00') END AS at,
       attempt, queue, priority, due_at
  FROM jobs;
