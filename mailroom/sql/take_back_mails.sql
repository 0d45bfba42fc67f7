-- Take back, for these events, mails that never went out (see take_back); which, of those, may be any.
--
-- Arguments: message_ids, kinds and moments (the keys of the events), max_attempts and queue, as take_back has them.
--
-- Returns what take_back does. A trigger or a rule of the application's own may refuse some, which must not keep the others
-- waiting: so where any are refused, each half is tried by itself, and one that is refused alone comes again in a minute.
--
-- Locks: deliveries by id and jobs by token, skipping what others hold. Whoever calls it holds the events.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.take_back_mails(
    message_ids text[], kinds text[], moments timestamptz[], max_attempts integer, queue text
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
    tokens         bigint[];
    actions        text[];
    contradictions text[];
    outcomes       text[];
    number         integer := cardinality(take_back_mails.message_ids);
BEGIN
    BEGIN
        WITH pending AS MATERIALIZED (
            SELECT told.*
              FROM unnest(take_back_mails.message_ids, CAST(take_back_mails.kinds AS event_kind[]), take_back_mails.moments)
                   AS key (message_id, kind, at)
             CROSS JOIN LATERAL (
                   SELECT message_id, kind, at, token, fence, absorbed_at
                     FROM events
                    WHERE events.message_id = key.message_id AND events.kind = key.kind AND events.at = key.at
                    LIMIT 1) AS told
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
                   coalesce(taken_back.queue, take_back_mails.queue)
              FROM taken_back
              LEFT JOIN actions ON actions.name = taken_back.action
             WHERE taken_back.kind = 'rendering_failure' AND taken_back.attempt + 1 < take_back_mails.max_attempts
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
             WHERE kind = 'reject' OR attempt + 1 >= take_back_mails.max_attempts
            UNION ALL
            SELECT ended.token, tokens.account, NULL, rejected.fence, ended.action, 'rejected', ended.attempt, rejected.message_id,
                   'Reject', 'SES rejected what is in it'
              FROM ended
              JOIN (SELECT DISTINCT ON (token) token, fence, message_id FROM said WHERE kind = 'reject'
                     ORDER BY token, message_id) AS rejected USING (token)  -- one of its calls: it ends once
              LEFT JOIN tokens ON tokens.id = ended.token
            RETURNING token, action, outcome, error_code
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
        ),
        told AS (
            SELECT again.token, CAST(taken_back.action AS text) AS action, CAST(taken_back.kind AS text) AS kind,
                   CAST(NULL AS text) AS outcome
              FROM again JOIN taken_back USING (token)
             UNION ALL
            SELECT token, CAST(action AS text), CASE error_code WHEN 'Reject' THEN 'reject' ELSE 'rendering_failure' END,
                   CAST(outcome AS text)
              FROM logged
        )
        SELECT array_agg(token), array_agg(action), array_agg(kind), array_agg(outcome)
          INTO tokens, actions, contradictions, outcomes
          FROM told;
        SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of all
    EXCEPTION
        -- Each would meet these, and wait. What is hidden (insufficient_privilege) is not what is not there.
        WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR insufficient_privilege THEN
            RAISE;
        WHEN OTHERS THEN
            IF number > 1 THEN
                RETURN QUERY SELECT * FROM take_back_mails(
                    message_ids[:number / 2], kinds[:number / 2], moments[:number / 2], max_attempts, queue);
                RETURN QUERY SELECT * FROM take_back_mails(
                    message_ids[number / 2 + 1:], kinds[number / 2 + 1:], moments[number / 2 + 1:], max_attempts, queue);
            ELSE
                RAISE WARNING 'mailroom: that message % never went out is not acted on, and tried again: %',
                              message_ids[1], SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('take_back token=%s', (
                        SELECT events.token FROM events
                         WHERE events.message_id = take_back_mails.message_ids[1] AND events.token IS NOT NULL
                         LIMIT 1));
                UPDATE events SET look_at = clock_timestamp() + interval '1 minute'
                 WHERE events.message_id = take_back_mails.message_ids[1] AND events.at = take_back_mails.moments[1]
                   AND events.kind = CAST(take_back_mails.kinds[1] AS event_kind);
            END IF;
            RETURN;
    END;
    RETURN QUERY SELECT * FROM unnest(tokens, actions, contradictions, outcomes);
END $$;
