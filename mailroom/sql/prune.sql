-- Forget tokens that have long been finished, with all their deliveries and events.
--
-- A token that stayed without its deliveries would look as if it had never been mailed, and be mailed again.
--
-- Arguments: after (look at deliveries with higher ids), scan_limit (how many to look at, and how many events that
-- nothing here knows to delete), older_than (an interval).
--
-- What a table, a trigger or a rule of the application's own refuses stays, and keeps nothing else (see prune_tokens). Where
-- nothing at all may go, it fails, and whoever calls it goes on behind that.
--
-- A token is forgotten whole or not at all. It is forgotten if its newest delivery is old enough, it is neither waiting
-- nor in flight, and it is finished and was consumed or expired as long ago; or if it is gone, with its account. A
-- consumed token stays as long as there is an older one of its account and action that was not consumed. Without it the
-- older one would be good again, until it expires, or when its life is renewed.
--
-- Returns one row: how many deliveries and tokens were deleted, and after_id, from which to go on (NULL: that was all).
-- It also goes on if no delivery is old, but there are more old events of unknown mails than one step deletes; and if a
-- delivery lies ahead, from before the clock was set back: old ones may follow.
--
-- Locks: deliveries by id, then tokens by id, skipping what others hold.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.prune(
    older_than interval, after bigint, scan_limit integer
)
    RETURNS TABLE (
        deliveries bigint, tokens bigint, after_id bigint
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    done record;
BEGIN
    WITH looked AS MATERIALIZED (
        SELECT id, token, created_at < now() - prune.older_than AS old, created_at > now() AS ahead
          FROM deliveries
         WHERE id > prune.after
         ORDER BY id
         LIMIT prune.scan_limit
    ),
    -- What was logged under no token goes by its own age.
    cleared AS (
        DELETE FROM deliveries
         WHERE id = ANY (ARRAY(SELECT id FROM looked WHERE old AND token IS NULL ORDER BY id))
        RETURNING id
    ),
    -- Evidence goes with its token; what nothing here knows, by its own age.
    strangers AS (
        DELETE FROM events
         WHERE (message_id, kind, at) IN (
               SELECT message_id, kind, at FROM events
                WHERE token IS NULL AND absorbed_at < now() - prune.older_than
                ORDER BY absorbed_at
                LIMIT prune.scan_limit)
        RETURNING kind
    )
    SELECT pruned.deliveries + (SELECT count(*) FROM cleared) AS deliveries, pruned.tokens, pruned.refused,
           (SELECT count(*) FROM strangers) AS strangers, given.candidates,
           CASE WHEN (SELECT count(*) = prune.scan_limit AND bool_or(old OR ahead) FROM looked)
                  OR (SELECT count(*) = prune.scan_limit FROM strangers)
                THEN (SELECT coalesce(max(id), prune.after) FROM looked) END AS after_id
      INTO done
      FROM (SELECT ARRAY(SELECT DISTINCT token FROM looked WHERE old AND token IS NOT NULL) AS candidates OFFSET 0) AS given
     CROSS JOIN LATERAL prune_tokens(given.candidates, prune.older_than, 64) AS pruned;
    IF done.refused AND done.deliveries + done.strangers = 0 THEN  -- then nothing comes of it, and that is to be told
        PERFORM prune_tokens(done.candidates, prune.older_than, 0);
    END IF;
    RETURN QUERY SELECT done.deliveries, done.tokens, done.after_id;
END $$;
