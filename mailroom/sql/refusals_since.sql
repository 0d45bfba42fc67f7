-- Find the jobs of an action that were refused lately, after the newest mail of it that was accepted.
--
-- Arguments: action; codes (with which SES refuses a mail for its own sake); before (a moment: after the newest that
-- was accepted before it; NULL: after the newest of all); lately (an interval: how far back the log is read from there).
--
-- Returns the token of each. One that an operator has taken back is none of them.
--
-- Locks: nothing.
--
-- Plan: made for each call. Which index is the best depends on how much of the log it has to read.
CREATE OR REPLACE FUNCTION mailroom.refusals_since(
    action text, codes text[], before timestamptz, lately interval
)
    RETURNS TABLE (
        token bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH newest AS MATERIALIZED (
        SELECT id, fence
          FROM deliveries
         WHERE action = CAST(refusals_since.action AS token_action)
           AND created_at > coalesce(refusals_since.before, now()) - refusals_since.lately
           AND created_at < coalesce(refusals_since.before, 'infinity')
           -- A mail that the claim found to be accepted long ago has a code, and says nothing of now.
           AND outcome = 'sent' AND error_code IS NULL AND NOT late
         ORDER BY id DESC
         LIMIT 1
    )
    SELECT token
      FROM deliveries
     WHERE action = CAST(refusals_since.action AS token_action)
       AND created_at > coalesce(refusals_since.before, now()) - refusals_since.lately
       AND id > coalesce((SELECT id FROM newest), 0)
       -- What left in one call with a mail that was accepted was refused for its own sake.
       AND coalesce(fence <> (SELECT fence FROM newest), true)
       AND outcome IN ('rejected', 'failed') AND error_code = ANY (refusals_since.codes) AND retried_at IS NULL;
END $$;
