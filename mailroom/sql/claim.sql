-- Claim up to job_limit due jobs of one priority and action, and open batches for them, of up to batch_limit each.
--
-- Arguments: queue, worker, batch_limit, job_limit (how many may be mailed), batch_timeout, lease, slack, busy_wait and
-- max_busy_wait (intervals); a row for each lane, that is for each priority and action, in six arrays: priorities,
-- actions, ranks, scans, floors_due_at and floors_token; and scan_limit and probing.
--
-- Lanes of one rank are served by the age of what waits in them. scans: how many jobs of the lane are looked at, at
-- least job_limit, and more where the last claim found nothing to mail; at most scan_limit.
--
-- A lane's floor is where the last claim in it ended (NULL: the beginning). Below it lie rows that are dead but not yet
-- vacuumed. It never reaches into the last moments (slack), in which commits may still land out of order. What
-- committed later than that, the sweep finds.
--
-- A paused lane is passed over. If `probing` (a boolean), only one that is paused by hand is: where several pauses
-- cover a lane, each of them would otherwise keep the others from ever being tried.
--
-- What a kind of mail asks for is read from its row of actions, as it is now. If its template has several languages,
-- `data` says which is the mail's, as in {"lang_de": "1", "lang_pt_br": ""}. It has no key for the default language.
--
-- Returns a row for each job that was looked at, and in each row whether there was work in `others` of the lanes. A job
-- is one of these:
-- - To be sent. The first job of each batch comes with the batch, and with what its row of actions says.
-- - Finished, with its outcome.
-- - Gone back to jobs, as `busy`: somebody has locked its account or its token, or its end cannot be put on record. It
--   is due after a tenth of its token's age (from busy_wait to max_busy_wait).
-- - Gone back to jobs, as `surplus`: enough others leave. It is due as it was.
--
-- It works in steps, and makes each only where there is something to do: most claims find a job or two that can be
-- mailed as they are, and the other steps would cost more than that. What the first steps lock stays locked until the
-- end.
--
-- Locks: jobs, then accounts (of limited mails) and tokens (whose life is renewed), skipping what others hold. It waits
-- only for who has one of these tables whole, and before it holds anything.
--
-- Plan: pinned, in the order in which it is written, and by index, whatever the statistics are when it is made.
CREATE OR REPLACE FUNCTION mailroom.claim(
    queue text, worker text, batch_limit integer, job_limit integer, batch_timeout interval, lease interval,
    slack interval, busy_wait interval, max_busy_wait interval, priorities smallint[], actions text[], ranks smallint[],
    scans integer[], floors_due_at timestamptz[], floors_token bigint[], scan_limit integer, probing boolean
)
    RETURNS TABLE (
        batch bigint, fence uuid, template text, path text, number smallint, has_code boolean, token bigint,
        due_at timestamptz, priority smallint, action text, attempt smallint, account bigint, email text, login text,
        data text, secret bytea, code text, resend boolean, outcome text, error_code text, busy boolean, surplus boolean,
        others boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET enable_memoize = off SET join_collapse_limit = 1 AS $$
#variable_conflict use_column
DECLARE
    lane     record;
    kind     record;
    held     claimed_job[];
    any_lost boolean;
    any_back boolean;
    any_late bigint[];
    renewed  bigint[];
    ended    bigint[];
BEGIN
    -- A claim that a crash of the server forgets sends mails twice, and nobody knows. A worker asks for this setting at
    -- its start, and each minute; in between it may be changed, or come from another client of a pooler.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    -- The lane to serve: of those in which a batch is full, or has waited long enough, the first in which a job can be
    -- had, the most urgent first. Where others hold all of a lane, those behind must not wait. Urgent jobs never wait for
    -- a batch to fill, nor do jobs that come back for another attempt: they have waited. The look at whole batches takes
    -- no locks, so that one that is not yet due to leave costs next to no writes.
    WITH given AS MATERIALIZED (
        SELECT given.priority, given.action, given.rank, given.scan,
               least(coalesce(given.floor_due_at, '-infinity'), now() - claim.slack) AS floor_due_at,
               CASE WHEN given.floor_due_at <= now() - claim.slack THEN given.floor_token ELSE 0 END AS floor_token
          FROM unnest(claim.priorities, CAST(claim.actions AS token_action[]), claim.ranks,
                      claim.scans, claim.floors_due_at, claim.floors_token)
               AS given (priority, action, rank, scan, floor_due_at, floor_token)
    ),
    ready AS MATERIALIZED (
        SELECT given.*
          FROM given
         CROSS JOIN LATERAL (
               SELECT count(*) AS jobs, min(head.due_at) AS oldest_due_at, bool_or(head.attempt > 0) AS again
                 FROM (SELECT due_at, attempt
                         FROM jobs
                        WHERE queue = claim.queue AND priority = given.priority AND action = given.action
                          AND due_at <= now() AND (due_at, token) > (given.floor_due_at, given.floor_token)
                        ORDER BY due_at, token
                        LIMIT claim.batch_limit) AS head
               ) AS waiting
         WHERE (waiting.jobs >= CASE given.priority WHEN 0 THEN 1 ELSE claim.batch_limit END
                OR waiting.again
                OR waiting.oldest_due_at <= now() - claim.batch_timeout)
           AND NOT EXISTS (
               SELECT FROM pauses
                WHERE pauses.scope IN ('account', 'configuration_set', CAST(given.action AS text),
                                       sender_scope(CAST(given.action AS text)),
                                       'queue:' || claim.queue, lane_scope(given.priority, given.action))
                  AND (pauses.probe_at IS NULL OR NOT claim.probing))
         ORDER BY given.rank, waiting.oldest_due_at
    )
    SELECT ready.*, (SELECT count(*) > 1 FROM ready) AS others
      INTO lane
      FROM ready
     CROSS JOIN LATERAL (
           SELECT
             FROM jobs
            WHERE queue = claim.queue AND priority = ready.priority AND action = ready.action AND due_at <= now()
              AND (due_at, token) > (ready.floor_due_at, ready.floor_token)
            ORDER BY due_at, token
            LIMIT 1
              FOR UPDATE SKIP LOCKED) AS first
     WHERE NOT EXISTS (SELECT FROM accounts, tokens WHERE false)  -- who truncates them has them first, or comes after
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT pushed.languages, pushed.default_language, actions.*
      INTO kind
      FROM actions
      LEFT JOIN LATERAL (
           SELECT languages, default_language
             FROM templates
            WHERE templates.name = actions.template AND cardinality(languages) > 1
            LIMIT 1) AS pushed ON true  -- LIMIT: by index, however many there are
     WHERE actions.name = lane.action;
    IF NOT FOUND THEN  -- whoever looks next knows it no more
        RETURN;
    END IF;

    -- MATERIALIZED: the locking subquery must run once. Run again inside a join, it could lock more rows than its LIMIT.
    --
    -- A job in quarantine is taken alone: it may be what kills its worker. Of limited mails there is one batch: each has to
    -- be held against all that are in flight, and against the others. Rows are locked as the outer LIMIT asks for them: what
    -- is locked and not taken, another claim passes over, and its floor with it. (The inner LIMIT is for the planner, which
    -- knows its value.)
    WITH due AS MATERIALIZED (
        SELECT *
          FROM (SELECT ctid AS place, token, due_at, attempt
                  FROM jobs
                 WHERE queue = claim.queue AND priority = lane.priority AND action = lane.action AND due_at <= now()
                   AND (due_at, token) > (lane.floor_due_at, lane.floor_token)
                 ORDER BY due_at, token
                 LIMIT claim.scan_limit
                   FOR UPDATE SKIP LOCKED) AS head
         LIMIT CASE WHEN lane.priority = 3 THEN 1
                    WHEN kind.limited AND lane.scan = claim.job_limit THEN claim.batch_limit
                    ELSE lane.scan END
    ),
    parted AS (
        SELECT place, token, due_at, attempt, (row_number() OVER (ORDER BY due_at, token) - 1) / claim.batch_limit AS part
          FROM due
    ),
    -- The lane is ready for its first batch, though others may be taking some of it at this moment. A last one that is
    -- not full stays, unless it need not wait either.
    leaving AS (
        SELECT part
          FROM parted
         GROUP BY part
        HAVING part = 0 OR count(*) = claim.batch_limit OR bool_or(attempt > 0)
            OR min(due_at) <= now() - claim.batch_timeout
    ),
    -- By place: the rows are locked, so that it is theirs, and no statistics can make this a walk over the table. (Where
    -- somebody changed a row after this statement began, its place is not seen, and the job stays for the next claim.)
    taken AS (
        DELETE FROM jobs
         WHERE ctid = ANY (ARRAY(SELECT place FROM parted JOIN leaving USING (part)))
        RETURNING token, due_at, priority, action, attempt
    ),
    -- What is so now decides. An acceptance that arrived after its batch was rescued is kept as a late row: the mail is
    -- out, and is not sent again, whatever the attempt: a failover may have forgotten that there was one. Of several, any.
    -- LIMIT, and no EXISTS: a look by index for each job, whatever the planner thinks of their number. What few jobs need
    -- is asked inside the CASE, of those alone.
    --
    -- A token proves the address that its account had when it was made. Who has consumed a newer one needs no older one;
    -- who was never active consumed none that activates; and where the newest alone is mailed, any newer one counts.
    --
    -- What is known of the address that the mail would go to is asked last but these. Whoever complained gets what a person
    -- asks for and waits for (priority 0), and nothing else.
    examined AS (
        SELECT taken.*, wanted.account, wanted.secret, wanted.code, wanted.login, wanted.created_at,
               coalesce(wanted.address, wanted.email) AS email,
               -- Of each language but the default, whether it is this mail's: the longest that the account's begins with.
               CASE
                   WHEN kind.languages IS NULL THEN CAST(wanted.data AS text)
                   ELSE CAST(coalesce(wanted.data, '{}') || (
                       SELECT jsonb_object_agg('lang_' || replace(each.tag, '-', '_'), CASE each.tag WHEN nearest.tag THEN '1' ELSE '' END)
                         FROM (SELECT (
                                  SELECT spoken
                                    FROM unnest(kind.languages) AS spoken
                                   WHERE starts_with(translate(lower(wanted.language COLLATE "C"), '_', '-') || '-', spoken || '-')
                                   ORDER BY length(spoken) DESC
                                   LIMIT 1) AS tag) AS nearest
                        CROSS JOIN unnest(kind.languages) AS each (tag)
                        WHERE each.tag <> kind.default_language) AS text)
               END AS data,
               kind.renews AND wanted.expires_at < now() + kind.life / 2 AS renews,
               accepted.batch AS accepted_in, accepted.fence AS accepted_fence, accepted.message_id,
               taken.attempt > 0 AND (
                   SELECT true
                     FROM deliveries
                    WHERE deliveries.token = taken.token AND deliveries.outcome = 'unconfirmed'
                    LIMIT 1
                   ) IS NOT NULL AS resend,
               coalesce(CASE
                   WHEN accepted.message_id IS NOT NULL THEN 'AcceptedLate'
                   WHEN wanted.id IS NULL THEN 'TokenGone'
                   WHEN wanted.consumed_at IS NOT NULL THEN 'TokenConsumed'
                   WHEN wanted.address_hash <> token_address_hash(wanted.email) THEN 'AddressChanged'
                   WHEN wanted.status <> kind.needs THEN 'AccountStatus'
                   WHEN wanted.expires_at <= now() AND NOT kind.renews THEN 'TokenExpired'
               END, (
                   SELECT CASE suppressions.reason WHEN 'bounce' THEN 'SuppressedBounce' WHEN 'complaint' THEN 'SuppressedComplaint'
                               WHEN 'soft_bounces' THEN 'SuppressedSoftBounces' WHEN 'added' THEN 'SuppressedByHand' END
                     FROM suppressions
                    WHERE suppressions.address_hash = CASE WHEN wanted.address IS NULL THEN wanted.address_hash
                                                           ELSE token_address_hash(wanted.address) END
                      AND (suppressions.reason <> 'complaint' OR kind.priority > 0)
                    LIMIT 1
               ), CASE
                   WHEN kind.newest_only THEN (
                       SELECT 'Superseded'
                         FROM tokens AS others
                        WHERE others.account = wanted.account AND others.action = taken.action AND others.id > wanted.id
                          AND others.newest_only
                        ORDER BY others.id DESC
                        LIMIT 1
                       )
                   WHEN kind.activates AND wanted.activated_at IS NULL THEN NULL
                   ELSE (
                       SELECT 'Superseded'
                         FROM tokens AS others
                        WHERE others.account = wanted.account AND others.action = taken.action AND others.id > wanted.id
                          AND others.consumed_at IS NOT NULL
                        LIMIT 1
                       )
               END) AS error_code
          FROM taken
          LEFT JOIN LATERAL (
               SELECT token.*, owner.*
                 FROM (SELECT id, account, address, data, secret, code, created_at, expires_at, consumed_at, address_hash
                         FROM tokens
                        WHERE tokens.id = taken.token
                        LIMIT 1) AS token
                CROSS JOIN LATERAL (
                      SELECT email, login, status, activated_at, language
                        FROM accounts
                       WHERE accounts.id = token.account
                       LIMIT 1) AS owner
               ) AS wanted ON true
          LEFT JOIN LATERAL (
               SELECT deliveries.batch, deliveries.fence, coalesce(deliveries.message_id, '') AS message_id
                 FROM deliveries
                WHERE deliveries.token = taken.token AND deliveries.outcome = 'sent' AND deliveries.late
                  AND (deliveries.proof IS NULL OR deliveries.proof = substring(sha256(wanted.secret) FOR 8))
                  AND NOT never_out(deliveries.message_id)
                LIMIT 1
               ) AS accepted ON true
         OFFSET 0  -- each is examined once, and not again for the sort
    ),
    numbered AS MATERIALIZED (
        SELECT *, row_number() OVER (PARTITION BY account, error_code IS NULL ORDER BY due_at, token) AS nth
          FROM examined
    ),
    -- Of what is limited only so many are mailed to an account in a time, those of this claim among them. It is asked
    -- last, and for those accounts alone of which a mail may leave, since it locks them.
    asked AS MATERIALIZED (
        SELECT account
          FROM numbered
         WHERE kind.limited AND error_code IS NULL AND nth = 1
         ORDER BY due_at, token
         LIMIT claim.batch_limit
    ),
    rooms AS MATERIALIZED (
        SELECT found.account, found.room
          FROM (SELECT WHERE kind.limited) AS limits
         CROSS JOIN LATERAL action_room(
               ARRAY(SELECT account FROM asked), ARRAY(SELECT token FROM numbered WHERE error_code IS NULL), kind.name,
               kind.per_15_minutes, kind.per_day) AS found
    ),
    judged AS (
        SELECT numbered.*,
               CASE WHEN error_code IS NOT NULL THEN NULL
                    WHEN NOT kind.limited THEN 'yes'
                    WHEN account NOT IN (SELECT account FROM asked) THEN 'later'
                    WHEN rooms.room IS NULL THEN 'busy'
                    WHEN nth > rooms.room THEN 'no'
                    ELSE 'yes' END AS fits
          FROM numbered
          LEFT JOIN rooms USING (account)
    ),
    -- What is to be mailed, in order, and of how many others that come first.
    ordered AS (
        SELECT *, row_number() OVER (PARTITION BY fits ORDER BY due_at, token) - 1 AS ahead
          FROM judged
    ),
    fitting AS MATERIALIZED (
        SELECT *,
               coalesce(fits = 'later' OR (fits = 'yes' AND ahead >=
                   CASE WHEN kind.limited THEN claim.batch_limit ELSE claim.job_limit END), false) AS surplus
          FROM ordered
    )
    SELECT array_agg(CAST(ROW(
               token, due_at, attempt, account, email, login, data, secret, code, resend, created_at, accepted_in,
               accepted_fence, message_id, ahead, coalesce(error_code, CASE fits WHEN 'no' THEN 'TooMany' END),
               surplus, coalesce(fits = 'busy', false)) AS claimed_job) ORDER BY due_at, token),
           bool_or(error_code IS NOT NULL OR fits = 'no'), bool_or(surplus OR fits = 'busy'),
           array_agg(token) FILTER (WHERE renews AND error_code IS NULL AND NOT surplus AND fits IS DISTINCT FROM 'no')
      INTO held, any_lost, any_back, any_late
      FROM fitting;

    -- A late token gets its life back. One that somebody has locked is being consumed or deleted, perhaps: its job goes
    -- back, or it would be mailed with a dead link.
    IF any_late IS NOT NULL THEN
        renewed := tokens_renew(any_late, kind.life);
        SELECT array_agg(CAST(ROW(
                   token, due_at, attempt, account, email, login, data, secret, code, resend, created_at, accepted_in,
                   accepted_fence, message_id, ahead, error_code, surplus,
                   busy OR (token = ANY (any_late) AND token <> ALL (renewed))) AS claimed_job)
                   ORDER BY due_at, token),
               any_back OR bool_or(token = ANY (any_late) AND token <> ALL (renewed))
          INTO held, any_back
          FROM unnest(held);
    END IF;
    IF any_lost THEN
        ended := jobs_end(ARRAY(SELECT each FROM unnest(held) AS each WHERE each.error_code IS NOT NULL),
                          claim.queue, lane.priority, CAST(lane.action AS text));
        IF EXISTS (SELECT FROM unnest(held) WHERE error_code IS NOT NULL AND token <> ALL (ended)) THEN  -- it goes back
            SELECT array_agg(CAST(ROW(
                       token, due_at, attempt, account, email, login, data, secret, code, resend,
                       CASE WHEN error_code IS NULL OR token = ANY (ended) THEN created_at ELSE '-infinity' END, accepted_in,
                       accepted_fence, message_id, ahead, CASE WHEN token = ANY (ended) THEN error_code END, surplus,
                       busy OR (error_code IS NOT NULL AND token <> ALL (ended))) AS claimed_job) ORDER BY due_at, token),
                   true
              INTO held, any_back
              FROM unnest(held);
        END IF;
    END IF;
    IF any_back THEN
        INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
        SELECT token,
               CASE WHEN busy THEN now() + least(claim.max_busy_wait, greatest(claim.busy_wait, (
                        now() - greatest(least(created_at, now()), now() - claim.max_busy_wait * 10)) / 10))
                    ELSE due_at END,
               lane.action, lane.priority, attempt, claim.queue
          FROM unnest(held)
         WHERE (busy OR surplus) AND error_code IS NULL;
    END IF;
    RETURN QUERY
    WITH batch AS (
        INSERT INTO batches (queue, worker, action, priority, due_at, tokens, attempts, due_ats, lease_until)
        SELECT claim.queue, claim.worker, lane.action, lane.priority, min(due_at),
               array_agg(token ORDER BY due_at, token), array_agg(attempt ORDER BY due_at, token),
               array_agg(due_at ORDER BY due_at, token),
               clock_timestamp() + claim.lease
          FROM unnest(held)
         WHERE error_code IS NULL AND NOT busy AND NOT surplus
         GROUP BY ahead / claim.batch_limit
         ORDER BY ahead / claim.batch_limit
        RETURNING id, fence, tokens[1] AS first
    )
    SELECT batch.id, batch.fence, CASE WHEN batch.id IS NOT NULL THEN kind.template END,
           CASE WHEN batch.id IS NOT NULL THEN kind.path END, CASE WHEN batch.id IS NOT NULL THEN kind.number END,
           CASE WHEN batch.id IS NOT NULL THEN kind.has_code END, token, due_at, lane.priority,
           CAST(lane.action AS text), attempt, account, email, login, data, secret, code, resend,
           CASE WHEN error_code = 'AcceptedLate' THEN 'sent' WHEN error_code = 'TokenExpired' THEN 'expired'
                WHEN starts_with(error_code, 'Suppressed') THEN 'suppressed' WHEN error_code IS NOT NULL THEN 'cancelled' END,
           error_code, busy, surplus, lane.others
      FROM unnest(held)
      LEFT JOIN batch ON batch.first = token
     ORDER BY due_at, token;
END $$;
