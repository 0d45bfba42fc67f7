-- Decide again, from the events on record, which of these addresses are not to be mailed.
--
-- Arguments: hashes (of addresses).
--
-- The result is the same in whatever order events come, and however often, since it is made from what is on record.
-- More than five temporary bounces in a row also say that the mailbox is dead. A bounce after a delivery of the same
-- message is somebody on holiday. What SES finds wrong with our own words says nothing of an address. `not-spam` is the
-- contrary of a complaint. Whoever consumed a token has read the mailbox.
--
-- SES's clock may be ahead of the database's: an event of the future counts as of the moment when we heard of it. The
-- moment when a suppression was lifted, or an address released, may lie ahead, too: the clock was set back. Then it
-- counts as later than all that is known, and earlier than what is new.
--
-- Locks: suppressions by hash, waiting for who holds them: of two who count, the second sees what the first has entered.
CREATE OR REPLACE FUNCTION mailroom.suppression_review(
    hashes bytea[]
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET join_collapse_limit = 1 SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO suppressions (address_hash)
    SELECT DISTINCT hash FROM unnest(suppression_review.hashes) AS hash WHERE hash IS NOT NULL ORDER BY hash
    ON CONFLICT DO NOTHING;
    PERFORM 1 FROM suppressions WHERE address_hash = ANY (suppression_review.hashes) ORDER BY address_hash FOR UPDATE;

    UPDATE suppressions
       SET lifted_at = greatest(bounced_at, soft_at)
     WHERE address_hash = ANY (suppression_review.hashes) AND lifted_at > clock_timestamp();
    UPDATE suppressions
       SET released_at = greatest(bounced_at, soft_at, complained_at,
                                  CASE WHEN added_at <= clock_timestamp() THEN added_at END),
           added_at = CASE WHEN added_at <= clock_timestamp() THEN added_at END
     WHERE address_hash = ANY (suppression_review.hashes) AND released_at > clock_timestamp()
       AND reason IS DISTINCT FROM 'added';

    -- One by one: a look by index for each, whatever there was when the plan was made. Of each kind the newest thousand, or
    -- a mailbox that is mailed each minute would hold up what is told of all others.
    WITH given AS MATERIALIZED (
        SELECT DISTINCT unnest(suppression_review.hashes) AS hash
    ),
    bounced AS MATERIALIZED (
        SELECT told.*
          FROM given
         CROSS JOIN LATERAL (
               SELECT address_hash, message_id, token, least(at, absorbed_at) AS at, type, subtype
                 FROM events
                WHERE address_hash = given.hash AND kind = 'bounce'
                ORDER BY events.at DESC
                LIMIT 1000) AS told
    ),
    complained AS MATERIALIZED (
        SELECT told.address_hash, max(told.at) AS at
          FROM given
         CROSS JOIN LATERAL (
               SELECT address_hash, least(at, absorbed_at) AS at, type
                 FROM events
                WHERE address_hash = given.hash AND kind = 'complaint'
                ORDER BY events.at DESC
                LIMIT 1000) AS told
         WHERE told.type NOT IN ('not-spam', 'auth-failure')
         GROUP BY told.address_hash
    ),
    delivered AS MATERIALIZED (
        SELECT hash AS address_hash, (
                   SELECT max(least(at, absorbed_at))
                     FROM (SELECT at, absorbed_at
                             FROM events
                            WHERE address_hash = hash AND kind = 'delivery'
                            ORDER BY events.at DESC
                            LIMIT 1000) AS newest) AS at
          FROM given
    ),
    -- A token that came back before its bounce was absorbed found nothing to lift.
    consumed AS MATERIALIZED (
        SELECT bounced.address_hash, max(proof.consumed_at) AS at
          FROM (SELECT DISTINCT address_hash, token FROM bounced WHERE token IS NOT NULL) AS bounced
         CROSS JOIN LATERAL (SELECT account FROM tokens WHERE id = bounced.token LIMIT 1) AS mailed
         CROSS JOIN LATERAL (
               SELECT max(CASE WHEN consumed_at <= clock_timestamp() THEN consumed_at END) AS consumed_at
                 FROM tokens  -- one row: a look by index for each account
                WHERE tokens.account = mailed.account AND consumed_at IS NOT NULL
                  AND CASE WHEN address IS NULL THEN address_hash ELSE token_address_hash(address) END = bounced.address_hash
               ) AS proof
         WHERE proof.consumed_at IS NOT NULL
         GROUP BY bounced.address_hash
    ),
    lifted AS MATERIALIZED (
        SELECT known.address_hash, greatest(known.lifted_at, delivered.at, consumed.at) AS at, known.released_at
          FROM given
         CROSS JOIN LATERAL (
               SELECT address_hash, lifted_at, released_at FROM suppressions WHERE address_hash = given.hash OFFSET 0) AS known
          LEFT JOIN delivered USING (address_hash)
          LEFT JOIN consumed USING (address_hash)
    ),
    passing AS MATERIALIZED (
        SELECT bounced.address_hash, max(bounced.at) AS at
          FROM bounced
          JOIN lifted USING (address_hash)
         WHERE bounced.type <> 'Permanent'
           AND bounced.subtype NOT IN ('MessageTooLarge', 'ContentRejected', 'AttachmentRejected')
           AND bounced.at > greatest(lifted.at, lifted.released_at, '-infinity')
           AND (SELECT true
                  FROM events
                 WHERE events.message_id = bounced.message_id AND events.kind = 'delivery'
                 LIMIT 1) IS NULL
         GROUP BY bounced.address_hash
        HAVING count(DISTINCT message_id) > 5
    )
    -- Bounces in a row are counted again: what comes late may be between them. What is on record no more stays counted.
    UPDATE suppressions
       SET bounced_at = greatest(bounced_at, (
               SELECT max(at) FROM bounced
                WHERE bounced.address_hash = suppressions.address_hash AND bounced.type = 'Permanent')),
           complained_at = greatest(complained_at, (
               SELECT at FROM complained WHERE complained.address_hash = suppressions.address_hash)),
           soft_at = coalesce(
               (SELECT at FROM passing WHERE passing.address_hash = suppressions.address_hash),
               CASE WHEN NOT EXISTS (
                        SELECT FROM bounced
                         WHERE bounced.address_hash = suppressions.address_hash AND bounced.at = suppressions.soft_at)
                    THEN soft_at END),
           lifted_at = (SELECT at FROM lifted WHERE lifted.address_hash = suppressions.address_hash)
     WHERE address_hash = ANY (suppression_review.hashes);

    -- What was told of the event that is the reason.
    WITH told AS MATERIALIZED (
        SELECT known.address_hash, said.type, said.subtype
          FROM (SELECT DISTINCT unnest(suppression_review.hashes) AS hash) AS given
         CROSS JOIN LATERAL (SELECT * FROM suppressions WHERE address_hash = given.hash OFFSET 0) AS known
          LEFT JOIN LATERAL (
               SELECT type, subtype
                 FROM ((SELECT kind, least(at, absorbed_at) AS at, type, subtype
                          FROM events
                         WHERE events.address_hash = known.address_hash AND kind = 'bounce'
                         ORDER BY events.at DESC
                         LIMIT 1000)
                        UNION ALL
                       (SELECT kind, least(at, absorbed_at), type, subtype
                          FROM events
                         WHERE events.address_hash = known.address_hash AND kind = 'complaint'
                         ORDER BY events.at DESC
                         LIMIT 1000)) AS mine
                WHERE kind = CASE reason WHEN 'complaint' THEN 'complaint'::event_kind ELSE 'bounce' END
                  AND at = CASE reason WHEN 'bounce' THEN bounced_at WHEN 'soft_bounces' THEN soft_at
                                       WHEN 'complaint' THEN complained_at END
                ORDER BY (type = 'Permanent') = (reason = 'bounce') DESC, type, subtype
                LIMIT 1) AS said ON true
         WHERE said.type IS NOT NULL OR reason IS NULL OR reason = 'added'
    )
    UPDATE suppressions
       SET type = coalesce((SELECT type FROM told WHERE told.address_hash = suppressions.address_hash), ''),
           subtype = coalesce((SELECT subtype FROM told WHERE told.address_hash = suppressions.address_hash), '')
     WHERE address_hash = ANY (ARRAY(SELECT address_hash FROM told));
END $$;
