-- Find the traces in which tokens were made, for who traces their mails: see migration 0007.
--
-- Arguments: ids, those of tokens.
--
-- Returns a row for each token that was made in one, with it, as in the header `traceparent`.
--
-- Locks: nothing.
--
-- Plan: pinned; by key, whatever the statistics of the moment are.
CREATE OR REPLACE FUNCTION mailroom.trace_find(
    ids bigint[]
)
    RETURNS TABLE (
        token bigint, trace text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT tokens.id, tokens.trace
      FROM tokens
     WHERE tokens.id = ANY (trace_find.ids) AND tokens.trace IS NOT NULL;
END $$;
