-- Act on what says that a mail never went out though SES had accepted it; and on what of other events could not be yet.
--
-- Arguments: most (how many such events at a time); max_attempts; queue (which a job that is put back goes to, where its
-- delivery does not say which it came from: it is of an older release).
--
-- A mail that failed to render was not sent: its `sent` is taken back, and its job comes back with an attempt charged, or
-- has failed. Its action is paused until a person ends that, unless somebody has since: each further mail would be accepted,
-- and lost. What was rejected for what is in it is rejected, also where its job waits because the answer never came.
--
-- It is the `sent` of that message that is taken back, once, whatever else there is of the token, and whenever the event
-- came. Who knows of no such row is asked again, later and later: the answer of the call may be on its way. What nothing here
-- knew for a week is asked no more; it stays on record.
--
-- When somebody ended the pause is a moment that may lie ahead, and so is that of a look: the clock was set back. Then it
-- is now that counts.
--
-- Returns a row for each mail: its token and action, what contradicted it, and its outcome: NULL is another attempt.
--
-- Locks: resumptions and events, then deliveries by id and jobs by token, skipping what others hold: the next sweep sees those.
-- Who has the table of tokens whole, as for TRUNCATE, is waited for before it holds anything.
--
-- Plan: made anew each time. One that is kept from a time when there was next to nothing walks over all there is.
CREATE OR REPLACE FUNCTION mailroom.take_back(
    most integer, max_attempts integer, queue text
)
    RETURNS TABLE (
        token bigint, action text, kind text, outcome text
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    hash   bytea;
    locked integer := 0;
BEGIN
    PERFORM FROM tokens WHERE false;  -- who truncates it has it first, or comes after
    UPDATE resumptions SET resumed_at = clock_timestamp()
     WHERE scope = ANY (ARRAY(
           SELECT scope FROM resumptions WHERE resumed_at > clock_timestamp() FOR UPDATE SKIP LOCKED));
    -- No look is put off for longer than half the age of its event, or two minutes. Those that are put off longest are asked:
    -- of a template that broke while nobody read the events there may be any number.
    UPDATE events SET look_at = now()
     WHERE (message_id, kind, at) IN (
           SELECT far.message_id, far.kind, far.at
             FROM (SELECT message_id, kind, at
                     FROM (SELECT message_id, kind, at, look_at, absorbed_at
                             FROM events
                            WHERE look_at > now() + interval '2 minutes' AND look_at < 'infinity'
                            ORDER BY look_at DESC
                            LIMIT 10000) AS ahead
                    WHERE CASE WHEN isfinite(look_at) AND isfinite(absorbed_at) THEN
                          look_at - now() > (now() - absorbed_at) / 2 END
                    LIMIT take_back.most) AS wrong
            CROSS JOIN LATERAL (
                  SELECT message_id, kind, at
                    FROM events
                   WHERE events.message_id = wrong.message_id AND events.kind = wrong.kind AND events.at = wrong.at
                   LIMIT 1
                     FOR UPDATE SKIP LOCKED) AS far);

    -- Addresses that are asked for once more, or that somebody had locked when their events were absorbed. Who still has one
    -- locked is waited for no longer than for ten of them; the next sweep tries again, with others first.
    FOR hash IN
        SELECT address_hash
          FROM (SELECT address_hash, look_at
                  FROM (SELECT address_hash, kind, look_at FROM events WHERE look_at <= now() ORDER BY look_at LIMIT 10000) AS due
                 WHERE kind NOT IN ('rendering_failure', 'reject')
                 LIMIT take_back.most) AS late
         GROUP BY address_hash
         ORDER BY min(look_at)
    LOOP
        EXIT WHEN locked >= 10;
        BEGIN
            PERFORM suppression_review(ARRAY[hash]);
            UPDATE events SET look_at = NULL
             WHERE address_hash = variables.hash AND kind IN ('delivery', 'bounce', 'complaint') AND look_at <= now();
        EXCEPTION
            WHEN lock_not_available THEN
                locked := locked + 1;
                UPDATE events SET look_at = clock_timestamp()  -- after all others
                 WHERE address_hash = variables.hash AND kind IN ('delivery', 'bounce', 'complaint') AND look_at <= now();
        END;
    END LOOP;

    -- Where the event has no tags, and no other of its message had: by the time at which SES took the mail, no longer ago than
    -- SQS keeps an event; and among the newest, whatever the clocks said. What is found is kept with the event.
    -- One walk over the log for all of them, from the earliest on: in a CASE it is no join, which would walk for each.
    WITH nameless AS MATERIALIZED (
        SELECT message_id,
               CASE WHEN look_at > absorbed_at AND isfinite(absorbed_at) AND isfinite(look_at)  -- since the last look, with an hour for what was at work then
                    THEN absorbed_at + (look_at - absorbed_at) * 2 / 3 - interval '1 hour'
                    ELSE greatest(least(at, absorbed_at) - interval '5 minutes', now() - interval '15 days') END AS since
          FROM (SELECT message_id, at, token, absorbed_at, look_at
                  FROM events
                 WHERE look_at <= now() AND kind IN ('rendering_failure', 'reject')
                 ORDER BY look_at
                 LIMIT take_back.most) AS due
         WHERE token IS NULL
    ),
    found AS MATERIALIZED (
        SELECT DISTINCT ON (message_id) message_id, token, fence
          FROM deliveries
         WHERE (created_at >= (SELECT min(since) FROM nameless)
                OR id > (SELECT max(id) - 10000 FROM deliveries WHERE EXISTS (SELECT FROM nameless)))
           AND CASE WHEN message_id IN (SELECT message_id FROM nameless) THEN token IS NOT NULL END
         ORDER BY message_id, id
    )
    UPDATE events
       SET token = found.token, fence = found.fence
      FROM found
     WHERE events.message_id = found.message_id AND events.token IS NULL;

    RETURN QUERY
    WITH pending AS MATERIALIZED (
        SELECT message_id, kind, at, token, fence, absorbed_at
          FROM events
         WHERE look_at <= now() AND kind IN ('rendering_failure', 'reject')
         ORDER BY look_at
         LIMIT take_back.most
           FOR UPDATE SKIP LOCKED
    ),
    said AS MATERIALIZED (
        SELECT DISTINCT ON (message_id) message_id, kind, token, fence
          FROM pending
         WHERE token IS NOT NULL
         ORDER BY message_id, kind = 'reject' DESC
    ),
    sent AS MATERIALIZED (
        SELECT deliveries.id, said.kind
          FROM said
         CROSS JOIN LATERAL (
               SELECT id
                 FROM deliveries
                WHERE token = said.token AND message_id = said.message_id
                  AND outcome = 'sent' AND NOT late AND retried_at IS NULL
                ORDER BY id
                LIMIT 1
                  FOR UPDATE SKIP LOCKED) AS deliveries
    ),
    taken_back AS (
        UPDATE deliveries SET retried_at = clock_timestamp() FROM sent
         WHERE deliveries.id = sent.id
        RETURNING deliveries.token, deliveries.account, deliveries.batch, deliveries.fence, deliveries.action,
                  deliveries.attempt, deliveries.message_id, deliveries.queue, deliveries.priority, sent.kind
    ),
    -- A mail whose answer never came, and that SES has rejected in each of its calls of which that is so.
    waiting AS MATERIALIZED (
        SELECT jobs.token
          FROM said
         CROSS JOIN LATERAL (
               SELECT token FROM jobs WHERE jobs.token = said.token LIMIT 1 FOR UPDATE SKIP LOCKED) AS jobs
         WHERE said.kind = 'reject' AND said.token NOT IN (SELECT token FROM taken_back)
           AND EXISTS (SELECT FROM deliveries WHERE token = said.token AND fence = said.fence AND outcome = 'unconfirmed')
           AND NOT EXISTS (
               SELECT FROM deliveries
                WHERE token = said.token AND outcome = 'unconfirmed'
                  AND NOT EXISTS (
                      SELECT FROM events AS told
                       WHERE told.token = said.token AND told.fence = deliveries.fence AND told.kind = 'reject'))
           AND NOT EXISTS (
               SELECT FROM deliveries WHERE token = said.token AND outcome = 'sent' AND NOT never_out(message_id))
    ),
    ended AS (
        DELETE FROM jobs WHERE token IN (SELECT token FROM waiting)
        RETURNING token, action, attempt
    ),
    again AS (
        INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
        SELECT taken_back.token, clock_timestamp(), taken_back.action,
               coalesce(taken_back.priority, actions.priority, 1), taken_back.attempt + 1,
               coalesce(taken_back.queue, take_back.queue)
          FROM taken_back
          LEFT JOIN actions ON actions.name = taken_back.action
         WHERE taken_back.kind = 'rendering_failure' AND taken_back.attempt + 1 < take_back.max_attempts
        ON CONFLICT (token) DO NOTHING
        RETURNING token
    ),
    logged AS (
        INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, message_id, error_code, error)
        SELECT token, account, batch, fence, action,
               CASE kind WHEN 'reject' THEN 'rejected' ELSE 'failed' END::delivery_outcome, attempt, message_id,
               CASE kind WHEN 'reject' THEN 'Reject' ELSE 'RenderingFailure' END,
               CASE kind WHEN 'reject' THEN 'SES rejected what is in it' ELSE 'no attempt is left' END
          FROM taken_back
         WHERE kind = 'reject' OR attempt + 1 >= take_back.max_attempts
        UNION ALL
        SELECT ended.token, tokens.account, NULL, rejected.fence, ended.action, 'rejected', ended.attempt, rejected.message_id,
               'Reject', 'SES rejected what is in it'
          FROM ended
          JOIN (SELECT DISTINCT ON (token) token, fence, message_id FROM said WHERE kind = 'reject'
                 ORDER BY token, message_id) AS rejected USING (token)  -- one of its calls: it ends once
          LEFT JOIN tokens ON tokens.id = ended.token
        RETURNING token, action, outcome, error_code
    ),
    paused AS (
        INSERT INTO pauses (scope, code, reason)
        SELECT DISTINCT ON (kinds.action) kinds.action, 'RenderingFailure',
               'SES accepts mails of this template and cannot render them: repair it, then mailroom resume'
          FROM pending
         CROSS JOIN LATERAL (
               SELECT CAST(action AS text) AS action, created_at AS sent_at FROM deliveries
                WHERE token = pending.token AND fence = pending.fence
                UNION ALL
               SELECT CAST(action AS text), claimed_at FROM batches
                WHERE id > (SELECT batches_newest())  -- of an older one the next look tells, once it was rescued
                  AND fence = pending.fence AND pending.token = ANY (tokens)
                LIMIT 1) AS kinds
         WHERE pending.kind = 'rendering_failure'
           AND NOT EXISTS (  -- sent and heard of before that; or before the clock was set back, which comes to the same
               SELECT FROM resumptions
                WHERE scope = kinds.action
                  AND (resumed_at > least(kinds.sent_at, pending.absorbed_at)
                       OR least(kinds.sent_at, pending.absorbed_at) > clock_timestamp()))
         ORDER BY kinds.action
        ON CONFLICT (scope) DO UPDATE SET code = excluded.code, reason = excluded.reason, probe_at = NULL
            WHERE pauses.probe_at IS NOT NULL
    ),
    -- Done with, where its token neither waits nor is in flight, and that was so for longer than any statement takes: one
    -- that began before the event was there may still write an acceptance of the message.
    in_flight AS MATERIALIZED (
        SELECT unnest(tokens) AS token FROM batches
    ),
    looked AS (
        UPDATE events
           SET look_at = CASE
                   WHEN pending.token IS NOT NULL AND pending.absorbed_at < clock_timestamp() - interval '1 hour'
                        AND pending.token NOT IN (SELECT token FROM taken_back)
                        AND NOT EXISTS (SELECT FROM jobs WHERE token = pending.token)
                        AND NOT EXISTS (SELECT FROM in_flight WHERE in_flight.token = pending.token)
                        AND NOT EXISTS (
                            SELECT FROM deliveries
                             WHERE token = pending.token AND message_id = pending.message_id
                               AND outcome = 'sent' AND NOT late AND retried_at IS NULL) THEN NULL
                   WHEN pending.token IS NULL AND pending.absorbed_at < clock_timestamp() - interval '7 days' THEN NULL
                   ELSE clock_timestamp()
                        + CASE WHEN isfinite(pending.absorbed_at)
                               THEN greatest(interval '5 seconds', (clock_timestamp() - pending.absorbed_at) / 2)
                               ELSE interval '1 day' END END
          FROM pending
         WHERE events.message_id = pending.message_id AND events.kind = pending.kind AND events.at = pending.at
    )
    SELECT again.token, CAST(taken_back.action AS text), CAST(taken_back.kind AS text), CAST(NULL AS text)
      FROM again JOIN taken_back USING (token)
     UNION ALL
    SELECT token, CAST(action AS text), CASE error_code WHEN 'Reject' THEN 'reject' ELSE 'rendering_failure' END,
           CAST(outcome AS text)
      FROM logged;
END $$;
