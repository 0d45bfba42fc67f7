-- Absorb events of SES: each is evidence, and becomes one row. It decides nothing: sweeps and claims do.
--
-- Arguments: a row for each event, in arrays: kinds, message_ids, moments, tokens, fences and sites (the tags of the
-- mail, as far as they are told), addresses (where the mail went, as SES writes it; only its hash is kept, and that of
-- the token comes first), types, subtypes, statuses. A call without events puts on record that the queue of events was
-- read.
--
-- An event counts only if its token and fence are together in flight here, or in the log, or if another event of its
-- message was of such a mail. An event of another site is only counted. So is one of a mail that nothing here knows,
-- unless it contradicts an acceptance: that one is kept, since the acceptance may be on its way.
--
-- Each event proves that SES accepted the mail, except those that contradict it. If the log does not have the
-- acceptance, it gets a late row, whichever event comes first. A message gets one such row: it is written by whoever
-- writes the event `accepted`, of which there is one.
--
-- Returns one row: how many were added, known already (also twice in this call), from elsewhere, and unknown.
--
-- Locks: events, each in the order of their keys, waiting for who writes the same; then the feed; then suppressions by
-- hash.
CREATE OR REPLACE FUNCTION mailroom.absorb(
    kinds text[], message_ids text[], moments timestamptz[], tokens bigint[], fences uuid[], sites uuid[],
    addresses text[], types text[], subtypes text[], statuses text[]
)
    RETURNS TABLE (
        added bigint, known bigint, elsewhere bigint, unknown bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET join_collapse_limit = 1 AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    counts  record;
    touched bytea[];
BEGIN
    WITH home AS MATERIALIZED (
        SELECT id FROM site
    ),
    told AS MATERIALIZED (
        SELECT DISTINCT ON (message_id, kind, at) *, coalesce(site <> (SELECT id FROM home), false) AS foreign_site
          FROM unnest(CAST(absorb.kinds AS event_kind[]), absorb.message_ids, absorb.moments, absorb.tokens, absorb.fences,
                      absorb.sites, absorb.addresses, absorb.types, absorb.subtypes, absorb.statuses)
               AS event (kind, message_id, at, token, fence, site, address, type, subtype, status)
         ORDER BY message_id, kind, at
    ),
    newest AS MATERIALIZED (
        SELECT batches.id AS batch, batches.fence, batches.action, held.token, held.attempt
          FROM batches
         CROSS JOIN LATERAL unnest(batches.tokens, batches.attempts) AS held (token, attempt)
         WHERE batches.id > (SELECT batches_newest()) AND batches.fence = ANY (absorb.fences)
    ),
    -- What is neither in one of the newest batches (see batches_newest) nor in the log is looked for in all of them.
    missing AS MATERIALIZED (
        SELECT array_agg(told.fence) AS fences
          FROM told
         WHERE told.fence IS NOT NULL AND told.fence NOT IN (SELECT fence FROM newest) AND NOT told.foreign_site
           AND (SELECT true
                  FROM deliveries
                 WHERE deliveries.token = told.token AND deliveries.fence = told.fence
                 LIMIT 1) IS NULL
    ),
    in_flight AS MATERIALIZED (
        SELECT * FROM newest
         UNION ALL
        SELECT batches.id, batches.fence, batches.action, held.token, held.attempt
          FROM batches
         CROSS JOIN LATERAL unnest(batches.tokens, batches.attempts) AS held (token, attempt)
         WHERE (SELECT fences FROM missing) IS NOT NULL AND batches.fence = ANY ((SELECT fences FROM missing)::uuid[])
    ),
    -- By token, with a LIMIT: a look by index for each, whatever there was when the plan was made.
    placed AS MATERIALIZED (
        SELECT told.kind, told.message_id, told.at, told.foreign_site,
               coalesce(flying.token, logged.token, other.token) AS token,
               coalesce(flying.fence, logged.fence, other.fence) AS known_fence, told.fence,
               coalesce(flying.batch, logged.batch) AS batch, coalesce(flying.action, logged.action) AS action,
               coalesce(flying.attempt, logged.attempt) AS attempt, coalesce(logged.has_sent, false) AS has_sent,
               told.address, told.type, told.subtype, told.status
          FROM told
          LEFT JOIN in_flight AS flying ON flying.token = told.token AND flying.fence = told.fence AND NOT told.foreign_site
          LEFT JOIN LATERAL (
               SELECT deliveries.token, deliveries.fence, deliveries.batch, deliveries.action, deliveries.attempt,
                      deliveries.outcome = 'sent' AS has_sent
                 FROM deliveries
                WHERE deliveries.token = told.token AND deliveries.fence = told.fence AND NOT told.foreign_site
                ORDER BY deliveries.outcome = 'sent' DESC
                LIMIT 1) AS logged ON true
          LEFT JOIN LATERAL (
               SELECT same.token, same.fence
                 FROM (SELECT events.token, events.fence
                         FROM events
                        WHERE events.message_id = told.message_id AND told.token IS NULL AND NOT told.foreign_site
                       OFFSET 0) AS same  -- or the index of tokens would be walked
                WHERE same.token IS NOT NULL
                LIMIT 1) AS other ON true
    ),
    addressed AS MATERIALIZED (
        SELECT placed.*,
               coalesce(CASE WHEN mailed.address IS NULL THEN mailed.address_hash ELSE token_address_hash(mailed.address) END,
                        token_address_hash(placed.address)) AS address_hash,
               mailed.account
          FROM placed
          LEFT JOIN LATERAL (
               SELECT tokens.account, tokens.address, tokens.address_hash
                 FROM tokens
                WHERE tokens.id = placed.token
                LIMIT 1) AS mailed ON true
         WHERE placed.token IS NOT NULL
            OR (placed.kind IN ('rendering_failure', 'reject') AND NOT placed.foreign_site)
    ),
    entered AS (
        INSERT INTO events (message_id, kind, at, token, fence, address_hash, type, subtype, status, look_at)
        SELECT message_id, kind, at, token, coalesce(known_fence, fence), address_hash, type, subtype, status,
               CASE WHEN kind IN ('rendering_failure', 'reject') THEN CAST('-infinity' AS timestamptz)  -- before all looks again
                    -- A token that is being consumed, and not yet committed, lifts what this says: it is asked once more.
                    WHEN kind IN ('bounce', 'complaint') AND address_hash IS NOT NULL
                    THEN clock_timestamp() + interval '2 minutes' END
          FROM addressed
         ORDER BY message_id, kind, at
        ON CONFLICT DO NOTHING
        RETURNING message_id, kind, at, address_hash, type, subtype
    ),
    implied AS (
        INSERT INTO events (message_id, kind, at, token, fence)
        SELECT message_id, 'accepted', to_timestamp(0), token, known_fence
          FROM addressed
         WHERE kind NOT IN ('rendering_failure', 'reject') AND NOT has_sent AND batch IS NOT NULL
           AND (message_id, kind, at) IN (SELECT message_id, kind, at FROM entered)
         GROUP BY message_id, token, known_fence
         ORDER BY message_id
        ON CONFLICT DO NOTHING
        RETURNING message_id
    ),
    accepted AS (
        INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, late, limited, proof, message_id)
        SELECT DISTINCT ON (message_id) token, account, batch, known_fence, action, 'sent'::delivery_outcome, attempt, true,
               coalesce((SELECT limited FROM actions WHERE name = addressed.action), false),
               (SELECT substring(sha256(secret) FOR 8) FROM tokens WHERE id = addressed.token), message_id
          FROM addressed
         WHERE batch IS NOT NULL AND message_id IN (SELECT message_id FROM implied)
         ORDER BY message_id
    )
    SELECT (SELECT count(*) FROM entered) AS added,
           (SELECT count(*) FROM unnest(absorb.kinds)) - (SELECT count(*) FROM told)
               + (SELECT count(*) FROM addressed) - (SELECT count(*) FROM entered) AS known,
           (SELECT count(*) FROM placed WHERE foreign_site AND token IS NULL) AS elsewhere,
           (SELECT count(*) FROM placed WHERE NOT foreign_site AND token IS NULL) AS unknown,
           (SELECT count(*) FROM placed WHERE token IS NOT NULL) AS ours,
           ARRAY(SELECT address_hash FROM entered WHERE kind IN ('bounce', 'complaint')) AS said,
           ARRAY(SELECT address_hash FROM entered WHERE kind = 'delivery') AS delivered
      INTO counts;

    PERFORM feed_note(counts.ours > 0, counts.added, counts.known, counts.elsewhere, counts.unknown);
    -- A new snapshot, which has the rows above. A delivery says something only of an address that something is said of.
    -- Under the lock of the feed: of two that absorb at once, a bounce and a delivery, the second sees what the first did.
    SELECT counts.said || ARRAY(SELECT address_hash FROM suppressions WHERE address_hash = ANY (counts.delivered))
      INTO touched;
    IF cardinality(touched) > 0 THEN
        BEGIN
            PERFORM suppression_review(touched);
        EXCEPTION
            WHEN lock_not_available THEN  -- an application has consumed a token, and not committed: the sweep looks again
                UPDATE events SET look_at = now()
                 WHERE address_hash = ANY (variables.touched) AND kind IN ('delivery', 'bounce', 'complaint') AND absorbed_at >= now();
        END;
    END IF;
    RETURN QUERY SELECT counts.added, counts.known, counts.elsewhere, counts.unknown;
END $$;
