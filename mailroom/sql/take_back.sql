-- Act on events that say that an accepted mail never went out, and on other events that had to wait.
--
-- Arguments: most (how many such events at a time); max_attempts; queue (which a job that is put back goes to, where its
-- delivery does not say which it came from: it is of an older release).
--
-- A mail that failed to render was not sent: its `sent` is taken back, and its job comes back with an attempt charged, or
-- has failed. Its action is paused until a person ends that, unless somebody has since, or has taken another template: each
-- further mail would be accepted, and lost. What was rejected for what is in it is rejected, also where its job waits because the answer never came.
--
-- Only the `sent` of that message is taken back, and once, whatever else there is of the token, and whenever the event
-- came. If there is no such row, the event is looked at again, later and later: the answer of the call may be on its
-- way. An event that nothing here knew for a week is looked at no more. It stays on record.
--
-- The moment when somebody ended the pause may lie ahead, and so may that of the next look: the clock was set back.
-- Then it counts as now.
--
-- Returns a row for each mail: its token and action, what contradicted it, and its outcome (NULL: another attempt).
--
-- Locks: resumptions and events, then deliveries by id and jobs by token, skipping what others hold: the next sweep
-- sees those. It waits for who has the whole table of tokens, as for TRUNCATE, before it holds anything.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
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
    hash        bytea;
    locked      integer := 0;
    message_ids text[];
    kinds       text[];
    moments     timestamptz[];
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
            SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of all
            UPDATE events SET look_at = NULL
             WHERE address_hash = variables.hash AND kind IN ('delivery', 'bounce', 'complaint') AND look_at <= now();
        EXCEPTION
            WHEN lock_not_available THEN
                locked := locked + 1;
                UPDATE events SET look_at = clock_timestamp()  -- after all others
                 WHERE address_hash = variables.hash AND kind IN ('delivery', 'bounce', 'complaint') AND look_at <= now();
            -- What is hidden (insufficient_privilege) is not what is not there.
            WHEN transaction_rollback OR insufficient_resources OR insufficient_privilege THEN
                RAISE;
            WHEN OTHERS THEN  -- a trigger or a rule of the application's own, which is no reason for the others to wait
                RAISE WARNING 'mailroom: an address is not reviewed, and its events come again: %', SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('review token=%s', (
                        SELECT token FROM events
                         WHERE address_hash = variables.hash AND kind IN ('delivery', 'bounce', 'complaint') AND look_at <= now()
                         LIMIT 1));
                UPDATE events SET look_at = clock_timestamp() + interval '1 minute'
                 WHERE address_hash = variables.hash AND kind IN ('delivery', 'bounce', 'complaint') AND look_at <= now();
        END;
    END LOOP;

    -- Where the event has no tags, and no other of its message had: by the time at which SES took the mail, no longer ago than
    -- SQS keeps an event; and among the newest, whatever the clocks said. What is found is kept with the event.
    -- One walk over the log for all of them, from the earliest on: in a CASE it is no join, which would walk for each.
    WITH nameless AS MATERIALIZED (
        SELECT message_id,
               -- Since the last look, with an hour for what was at work then.
               CASE WHEN look_at > absorbed_at AND isfinite(absorbed_at) AND isfinite(look_at)
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

    SELECT array_agg(message_id), array_agg(kind), array_agg(at)
      INTO message_ids, kinds, moments
      FROM (SELECT message_id, CAST(kind AS text) AS kind, at
              FROM events
             WHERE look_at <= now() AND kind IN ('rendering_failure', 'reject')
             ORDER BY look_at
             LIMIT take_back.most
               FOR UPDATE SKIP LOCKED) AS pending;

    -- First, and whatever comes of the rest: each further mail would be lost.
    INSERT INTO pauses (scope, code, reason)
    SELECT DISTINCT ON (kinds.action) kinds.action, 'RenderingFailure',
           'SES accepts mails of this template and cannot render them: repair it, then mailroom resume'
      FROM unnest(variables.message_ids, variables.kinds, variables.moments) AS key (message_id, kind, at)
     CROSS JOIN LATERAL (
           SELECT token, fence, absorbed_at
             FROM events
            WHERE events.message_id = key.message_id AND events.kind = 'rendering_failure' AND events.at = key.at
            LIMIT 1) AS pending
     CROSS JOIN LATERAL (
           SELECT CAST(action AS text) AS action, least(claimed_at, created_at) AS made_at FROM deliveries
            WHERE token = pending.token AND fence = pending.fence
            UNION ALL
           SELECT CAST(action AS text), claimed_at FROM batches
            WHERE id > (SELECT batches_newest())  -- of an older one the next look tells, once it was rescued
              AND fence = pending.fence AND pending.token = ANY (tokens)
            ORDER BY made_at
            LIMIT 1) AS kinds
     WHERE key.kind = 'rendering_failure'
       AND NOT EXISTS (  -- claimed, or heard of, before that; or before the clock was set back, which comes to the same
           SELECT FROM resumptions
            WHERE scope = kinds.action
              AND (resumed_at > least(kinds.made_at, pending.absorbed_at)
                   OR least(kinds.made_at, pending.absorbed_at) > clock_timestamp()))
     ORDER BY kinds.action
    ON CONFLICT (scope) DO UPDATE SET code = excluded.code, reason = excluded.reason, probe_at = NULL
        WHERE pauses.probe_at IS NOT NULL;

    IF message_ids IS NOT NULL THEN
        RETURN QUERY SELECT * FROM take_back_mails(message_ids, kinds, moments, max_attempts, queue);
    END IF;
END $$;
