-- Say how many more mails of a limited action some accounts may get.
--
-- It locks these accounts, so that no other claim can take one of their mails until this transaction ends.
--
-- Arguments: owners (the accounts), own (tokens that do not stand in their own way: those to be mailed), of_action,
-- per_15_minutes and per_day (NULL: no limit).
--
-- Returns a row for each account that could be locked. Of one that is gone, or that somebody has locked, there is none.
--
-- A mail that may have gone out twice counts once: its copies are not the account's doing. A moment that lies ahead is
-- from before a clock was set back. Nobody knows when that was, so it is not counted. An account may have a million
-- tokens, but few mails are in flight: so the newest batches (see batches_newest) are asked once whose mails they have.
--
-- Locks: the accounts, skipping what others hold, so that nobody waits; a role that may only connect cannot hold one.
-- VOLATILE: what is read after the lock is read in a new snapshot.
CREATE OR REPLACE FUNCTION mailroom.action_room(
    owners bigint[], own bigint[], of_action text, per_15_minutes integer, per_day integer
)
    RETURNS TABLE (
        account bigint, room integer
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    locked bigint[];
BEGIN
    SELECT array_agg(id)
      INTO locked
      FROM (SELECT id FROM accounts WHERE id = ANY (action_room.owners) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS each;
    RETURN QUERY
    WITH in_flight AS MATERIALIZED (
        SELECT (SELECT tokens.account FROM tokens WHERE id = held.token) AS account, held.token, batches.claimed_at
          FROM batches
         CROSS JOIN LATERAL unnest(batches.tokens) AS held (token)
         WHERE batches.action = action_room.of_action AND batches.claimed_at <= clock_timestamp()
           AND batches.id > (SELECT batches_newest())
    )
    SELECT asked.owner,
           least(coalesce(action_room.per_15_minutes - mailed.lately, 2147483647),
                 coalesce(action_room.per_day - mailed.today, 2147483647))::integer
      FROM unnest(variables.locked) AS asked (owner)
     CROSS JOIN LATERAL (
           SELECT count(DISTINCT token) FILTER (WHERE mailed_at > now() - interval '15 minutes') AS lately,
                  count(DISTINCT token) AS today
             FROM (
                  SELECT token, created_at
                    FROM deliveries
                   WHERE deliveries.account = asked.owner AND action = action_room.of_action AND limited
                     AND retried_at IS NULL AND NOT (outcome = 'sent' AND never_out(message_id))
                     AND created_at > now() - interval '1 day' AND created_at <= clock_timestamp()
                   UNION ALL
                  SELECT token, claimed_at FROM in_flight WHERE in_flight.account = asked.owner
                  ) AS known (token, mailed_at)
            WHERE token <> ALL (action_room.own)
           ) AS mailed;
END $$;
