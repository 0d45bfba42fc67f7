-- Show attempts on record, the newest first, as far back as one look goes.
--
-- Arguments: before_id (where the page before ended; NULL: the end); of_outcome, of_code and since (only these; NULL: all);
-- scan_limit (how many rows are looked at); most (how many are shown).
--
-- Returns a row for each, as the view attempts has it; in each the id and the moment of the oldest row that was looked at,
-- and whether that was the end of the record. Where nothing was found there is one row without an id; where nothing is on
-- record there is none.
--
-- Locks: nothing.
--
-- Plan: pinned. A stretch of the primary key, from its end, whatever the filters leave of it. By id: rows that are
-- committed late are new on a page that was shown, and none is lost or shown twice.
CREATE OR REPLACE FUNCTION mailroom.browse_attempts(
    before_id bigint, of_outcome text, of_code text, since timestamptz, scan_limit integer, most integer
)
    RETURNS TABLE (
        id bigint, token bigint, account bigint, action text, state text, at timestamptz, attempt smallint, batch bigint,
        outcome text, code text, message_id text, looked_to_id bigint, looked_to timestamptz, is_all boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH looked AS MATERIALIZED (
        SELECT attempts.id, token, account, action, state, at, attempt, batch, CAST(attempts.outcome AS text) AS outcome,
               attempts.code, message_id
          FROM attempts
         WHERE attempts.id < coalesce(browse_attempts.before_id, 9223372036854775807)
         ORDER BY attempts.id DESC
         LIMIT browse_attempts.scan_limit
    ),
    edge AS (
        SELECT min(looked.id) AS id, min(looked.at) AS at,
               count(*) < browse_attempts.scan_limit OR min(looked.at) < browse_attempts.since AS is_all
          FROM looked
    ),
    chosen AS (
        SELECT *
          FROM looked
         WHERE (browse_attempts.of_outcome IS NULL OR looked.outcome = browse_attempts.of_outcome)
           AND (browse_attempts.of_code IS NULL OR looked.code = browse_attempts.of_code)
           AND (browse_attempts.since IS NULL OR looked.at >= browse_attempts.since)
         ORDER BY looked.id DESC
         LIMIT browse_attempts.most
    )
    SELECT chosen.*, edge.id, edge.at, coalesce(edge.is_all, false)
      FROM edge
      LEFT JOIN chosen ON true
     WHERE edge.id IS NOT NULL
     ORDER BY chosen.id DESC;
END $$;
