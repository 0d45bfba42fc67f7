-- Claim up to job_limit due jobs of one priority and action, and open batches for them, of up to batch_limit each.
--
-- Binds: queue, worker, batch_limit, job_limit, batch_timeout, lease and slack (intervals), and a row for each lane,
-- that is each priority and action, in four arrays: priorities, actions, floors_due_at, floors_token. A lane's floor is where
-- the last claim in it ended (NULL: the beginning); below it lie rows that are dead but not yet vacuumed. It never
-- reaches into the last moments (slack), in which commits may still land out of order; the sweep finds what committed
-- later than that. Lanes that are paused are passed over; when `probing` (a boolean) only those that are by hand: where
-- several pauses cover a lane, each alone would keep the others from ever being tried.
--
-- Of one account's recoveries, at most recoveries_per_15_minutes and recoveries_per_day are mailed.
--
-- Returns a row for each job taken: to be sent in its batch, or already over, with its outcome.
--
-- Locks: jobs (skipping what others hold), then the recoveries of an account, then tokens (skipping). It waits for
-- nobody but another claim that is about to mail a recovery of the same account.
WITH lane AS MATERIALIZED (
    SELECT given.priority, given.action,
           least(coalesce(given.floor_due_at, '-infinity'), now() - :slack) AS floor_due_at,
           CASE WHEN given.floor_due_at <= now() - :slack THEN given.floor_token ELSE 0 END AS floor_token
      FROM unnest(CAST(:priorities AS smallint[]), CAST(:actions AS token_action[]),
                  CAST(:floors_due_at AS timestamptz[]), CAST(:floors_token AS bigint[]))
           AS given (priority, action, floor_due_at, floor_token)
     WHERE NOT EXISTS (
           SELECT FROM pauses
            WHERE pauses.scope IN ('account', 'configuration_set', 'identity', CAST(given.action AS text), 'queue:' || :queue)
              AND (pauses.probe_at IS NULL OR NOT :probing))
),
-- The lanes in which a batch is full, or has waited long enough, the most urgent first. Urgent jobs never wait, nor do
-- jobs that come back for another attempt: they have waited. This look takes no locks, so that a batch that is not yet
-- due to leave costs next to no writes: at most the locks of a last one that is not full.
ready AS MATERIALIZED (
    SELECT lane.*
      FROM lane
     CROSS JOIN LATERAL (
           SELECT count(*) AS jobs, min(head.due_at) AS oldest_due_at, bool_or(head.attempt > 0) AS again
             FROM (SELECT due_at, attempt
                     FROM jobs
                    WHERE queue = :queue AND priority = lane.priority AND action = lane.action AND due_at <= now()
                      AND (due_at, token) > (lane.floor_due_at, lane.floor_token)
                    ORDER BY due_at, token
                    LIMIT :batch_limit) AS head
           ) AS waiting
     WHERE waiting.jobs >= CASE lane.priority WHEN 0 THEN 1 ELSE :batch_limit END
        OR waiting.again
        OR waiting.oldest_due_at <= now() - :batch_timeout
     ORDER BY lane.priority, waiting.oldest_due_at
),
-- The lane to serve: the first in which a job can be had. Where others hold all of them, the lanes behind must not wait.
chosen AS MATERIALIZED (
    SELECT ready.*
      FROM ready
     CROSS JOIN LATERAL (
           SELECT
             FROM jobs
            WHERE queue = :queue AND priority = ready.priority AND action = ready.action AND due_at <= now()
              AND (due_at, token) > (ready.floor_due_at, ready.floor_token)
            ORDER BY due_at, token
            LIMIT 1
              FOR UPDATE SKIP LOCKED) AS first
     LIMIT 1
),
-- MATERIALIZED: the locking subquery must run once. Run again inside a join, it could lock more rows than its LIMIT.
--
-- A job in quarantine is taken alone: it may be what kills its worker. Of recoveries there is one batch: each has to be
-- held against all that are in flight. Rows are locked as the outer LIMIT asks for them: what is locked and not taken,
-- another claim passes over, and its floor with it. (The inner one is for the planner, which knows its value.)
due AS MATERIALIZED (
    SELECT *
      FROM (SELECT ctid AS place, token, due_at, attempt
              FROM jobs
             WHERE queue = :queue AND due_at <= now()
               AND priority = (SELECT priority FROM chosen) AND action = (SELECT action FROM chosen)
               AND (due_at, token) > ((SELECT floor_due_at FROM chosen), (SELECT floor_token FROM chosen))
             ORDER BY due_at, token
             LIMIT :job_limit
               FOR UPDATE SKIP LOCKED) AS head
     LIMIT (SELECT CASE WHEN priority = 3 THEN 1 WHEN action = 'password_recovery' THEN :batch_limit ELSE :job_limit END
              FROM chosen)
),
parted AS (
    SELECT place, token, due_at, attempt, (row_number() OVER (ORDER BY due_at, token) - 1) / :batch_limit AS part
      FROM due
),
-- The lane is ready for its first batch, though others may be taking some of it at this moment. A last one that is not
-- full stays, unless it need not wait either.
leaving AS (
    SELECT part
      FROM parted
     GROUP BY part
    HAVING part = 0 OR count(*) = :batch_limit OR bool_or(attempt > 0) OR min(due_at) <= now() - :batch_timeout
),
-- By place: the rows are locked, so that it is theirs, and no statistics can make this a walk over the table. (Where
-- somebody changed a row after this statement began, its place is not seen, and the job stays for the next claim.)
taken AS (
    DELETE FROM jobs
     WHERE ctid = ANY (ARRAY(SELECT place FROM parted JOIN leaving USING (part)))
    RETURNING token, due_at, priority, action, attempt
),
-- What is so now decides. An acceptance that arrived after its batch was rescued is kept as a late row: the mail is
-- out, and is not sent again. Only a job that was tried before can have one. It is ordered by its moment, not its id:
-- to save a sort, PostgreSQL might walk the log by id, from its beginning.
--
-- Of an account's recoveries only the newest is mailed, and only so many in a time: recovery_fits. It is asked last,
-- since it locks, and after the sort (PostgreSQL leaves volatile functions for then), so that all claims lock accounts
-- in one order.
examined AS MATERIALIZED (
    SELECT taken.*, parted.part, tokens.account, tokens.secret, tokens.code, tokens.expires_at, accounts.email, accounts.login,
           accepted.batch AS accepted_in, accepted.message_id, unconfirmed.batch IS NOT NULL AS resend,
           CASE
               WHEN accepted.batch IS NOT NULL THEN 'AcceptedLate'
               WHEN tokens.id IS NULL THEN 'TokenGone'
               WHEN tokens.consumed_at IS NOT NULL THEN 'TokenConsumed'
               WHEN accounts.status <> CASE taken.action WHEN 'activation' THEN 'provisioned' ELSE 'active' END
                    ::account_status THEN 'AccountStatus'
               WHEN taken.action = 'activation' THEN NULL
               WHEN tokens.expires_at <= now() THEN 'TokenExpired'
               WHEN newer.id IS NOT NULL THEN 'Superseded'
               WHEN NOT recovery_fits(tokens.account, tokens.id, :recoveries_per_15_minutes, :recoveries_per_day)
                    THEN 'TooManyRecoveries'
           END AS error_code
      FROM taken
      JOIN parted USING (token)
      LEFT JOIN tokens ON tokens.id = taken.token
      LEFT JOIN accounts ON accounts.id = tokens.account
      LEFT JOIN LATERAL (
           SELECT deliveries.batch, deliveries.message_id
             FROM deliveries
            WHERE deliveries.token = taken.token AND deliveries.outcome = 'sent' AND deliveries.late
              AND taken.attempt > 0
            ORDER BY deliveries.created_at
            LIMIT 1
           ) AS accepted ON true
      LEFT JOIN LATERAL (
           SELECT deliveries.batch
             FROM deliveries
            WHERE deliveries.token = taken.token AND deliveries.outcome = 'unconfirmed' AND taken.attempt > 0
            LIMIT 1
           ) AS unconfirmed ON true
      LEFT JOIN LATERAL (
           SELECT others.id
             FROM tokens AS others
            WHERE others.account = tokens.account AND others.id > tokens.id AND others.action = 'password_recovery'
              AND taken.action = 'password_recovery'
            ORDER BY others.id DESC
            LIMIT 1
           ) AS newer ON true
     ORDER BY tokens.account
),
looked_up AS MATERIALIZED (
    SELECT *,
           CAST(CASE
               WHEN error_code = 'AcceptedLate' THEN 'sent'
               WHEN error_code = 'TokenExpired' THEN 'expired'
               WHEN error_code IS NOT NULL THEN 'cancelled'
           END AS delivery_outcome) AS outcome
      FROM examined
),
-- A late activation gets its life back. A token that somebody has locked is being consumed or deleted: leave it.
renewable AS MATERIALIZED (
    SELECT tokens.id
      FROM tokens
      JOIN looked_up ON looked_up.token = tokens.id
     WHERE looked_up.outcome IS NULL AND looked_up.action = 'activation'
       AND looked_up.expires_at < now() + token_life() / 2
     ORDER BY tokens.id
       FOR NO KEY UPDATE OF tokens SKIP LOCKED
),
renewed AS (
    UPDATE tokens SET expires_at = now() + token_life() FROM renewable WHERE tokens.id = renewable.id
),
over AS (
    INSERT INTO deliveries (token, account, batch, action, outcome, attempt, message_id, error_code)
    SELECT token, account, accepted_in, action, outcome, attempt, message_id, error_code
      FROM looked_up
     WHERE outcome IS NOT NULL
),
batch AS (
    INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, lease_until)
    SELECT :queue, :worker, min(action), min(priority), min(due_at),
           array_agg(token ORDER BY due_at, token), array_agg(attempt ORDER BY due_at, token),
           clock_timestamp() + :lease
      FROM looked_up
     WHERE outcome IS NULL
     GROUP BY part
     ORDER BY part
    RETURNING id, tokens
)
SELECT opened.batch, token, due_at, priority, action, attempt, account,
       email, login, secret, code, resend, outcome, error_code
  FROM looked_up
  LEFT JOIN (SELECT id AS batch, unnest(tokens) AS token FROM batch) AS opened USING (token)
 ORDER BY due_at, token
