-- Attempts on record, each with its state.
--
-- The state is `finished` if it decided, `retried` if that was taken back, `late` if it came too late to decide, and
-- `tried` if another one followed. `at` is when it was recorded; due_at, when the job was due; call_ms, how many
-- milliseconds its call took. What is not known is NULL, as in rows of an older release, which have no queue either.
CREATE OR REPLACE VIEW mailroom.attempts AS
SELECT id, token, account, CAST(action AS text) AS action,
       CASE WHEN late THEN 'late'
            WHEN retried_at IS NOT NULL THEN 'retried'
            WHEN outcome IN ('deferred', 'unconfirmed') THEN 'tried'
            ELSE 'finished' END AS state,
       created_at AS at, attempt, batch, outcome, error_code AS code, message_id, error, due_at, claimed_at, call_ms, queue
  FROM deliveries;
