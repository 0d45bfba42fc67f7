-- Enqueue tokens that are in no place: no job, no batch, no final delivery.
--
-- There are such tokens after a trigger was disabled, or a backup restored.
--
-- Arguments: below (look at tokens with lower ids; NULL: from the newest), scan_limit (how many tokens to look at),
-- horizon (an interval: leave older ones alone; NULL: there is none), queue (which the jobs go to: nobody knows which
-- they were for).
--
-- It runs alone: another one might enqueue a token after this one's snapshot, and have it sent before this one's insert.
-- So the lock is a statement of its own, and comes first: what another one enqueued, and a worker has sent since, is in
-- the snapshot of the second statement. That is so at READ COMMITTED alone. Everything else moves a token from one place
-- to another in one commit, so that one snapshot always finds it.
--
-- A consumed token needs no mail. A recovery that has run out is enqueued, and the claim puts it on record as expired.
-- One that was tried before counts as tried, so that the claim looks for a late acceptance.
--
-- What a trigger, a rule or a constraint of the application's own refuses keeps nothing else (see reconcile_tokens). Where
-- so many may be refused that not all have their turn, whoever goes on comes to the rest, and who looks at the newest alone
-- begins with another one each time.
--
-- Returns one row: the tokens enqueued, and below which id to go on (NULL: that was all).
--
-- Locks: the table locks, in which nothing ever is, in a mode that is in its own way alone. It waits no longer than the
-- lock_timeout for another one, which must not keep mails from leaving.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.reconcile(
    below bigint, scan_limit integer, horizon interval, queue text
)
    RETURNS TABLE (
        enqueued bigint[], next_below bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET lock_timeout = '2s' AS $$
#variable_conflict use_column
DECLARE
    found record;
    done  record;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE invalid_transaction_state
            USING MESSAGE = 'reconcile needs READ COMMITTED, where its second statement has a new snapshot';
    END IF;
    LOCK TABLE locks IN SHARE UPDATE EXCLUSIVE MODE;
    WITH looked AS MATERIALIZED (
        SELECT id, action, consumed_at, created_at,
               created_at > coalesce(now() - reconcile.horizon, '-infinity') AS near
          FROM tokens
         WHERE id < coalesce(reconcile.below, 9223372036854775807) AND id > -9223372036854775808  -- no job can have that
         ORDER BY id DESC
         LIMIT reconcile.scan_limit
    ),
    in_flight AS MATERIALIZED (
        SELECT unnest(tokens) AS token FROM batches
    ),
    -- Counted, since PostgreSQL may turn a NOT EXISTS into a table of all that matches, made from the whole log.
    lost AS MATERIALIZED (
        SELECT looked.id, looked.action, logged.deliveries > 0 AS tried
          FROM looked
         CROSS JOIN LATERAL (SELECT count(*) AS jobs FROM jobs WHERE jobs.token = looked.id) AS waiting
         CROSS JOIN LATERAL (
               SELECT count(*) AS deliveries,
                      count(*) FILTER (
                          WHERE NOT late AND retried_at IS NULL AND outcome NOT IN ('deferred', 'unconfirmed')) AS finals
                 FROM deliveries
                WHERE deliveries.token = looked.id
               ) AS logged
         WHERE looked.near AND looked.consumed_at IS NULL
           AND waiting.jobs = 0 AND logged.finals = 0
           AND NOT EXISTS (SELECT FROM in_flight WHERE in_flight.token = looked.id)
    ),
    -- The newest first; where there are more than have their turn for certain, from any of them on, and then the newer.
    first AS MATERIALIZED (
        SELECT CASE WHEN reconcile.below IS NULL AND count(*) > 100
                    THEN (array_agg(id))[1 + CAST(floor(random() * count(*)) AS integer)] END AS id
          FROM lost
    ),
    placed AS MATERIALIZED (
        SELECT lost.*, row_number() OVER (ORDER BY lost.id > first.id, lost.id DESC) AS place
          FROM lost
         CROSS JOIN first
    )
    SELECT array_agg(lost.id ORDER BY lost.place) AS ids, array_agg(lost.action ORDER BY lost.place) AS actions,
           array_agg(CASE WHEN actions.priority = 1
                               AND 50 < (SELECT count(*) FROM lost JOIN actions ON actions.name = lost.action
                                          WHERE actions.priority = 1) THEN 2
                          ELSE actions.priority END ORDER BY lost.place) AS priorities,
           array_agg(CASE WHEN lost.tried THEN 1 ELSE 0 END ORDER BY lost.place) AS attempts,
           (SELECT max(id) FROM looked) AS newest,
           (SELECT min(id) FROM looked HAVING count(*) = reconcile.scan_limit AND bool_and(near)) AS next_below
      INTO found
      FROM placed AS lost
      JOIN actions ON actions.name = lost.action;
    SELECT * INTO done
      FROM reconcile_tokens(
           found.ids, CAST(found.actions AS text[]), found.priorities, found.attempts, reconcile.queue, 256);
    RETURN QUERY
    SELECT ARRAY(SELECT unnest(done.enqueued) ORDER BY 1),
           CAST(CASE WHEN found.ids IS NULL OR done.decided = cardinality(found.ids) THEN found.next_below
                     WHEN reconcile.below IS NULL THEN found.newest + 1
                     ELSE found.ids[done.decided] END AS bigint);
END $$;
