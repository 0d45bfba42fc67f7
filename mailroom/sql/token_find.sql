-- Find a token, with what it is worth: who has its secret and code, and the key, can sign it.
--
-- Arguments: by_id or by_secret; the other is NULL.
--
-- Returns the token and whether it has expired, or no row.
--
-- Locks: nothing.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.token_find(
    by_id bigint, by_secret bytea
)
    RETURNS TABLE (
        id bigint, action text, account bigint, secret bytea, code text, expires_at timestamptz,
        consumed_at timestamptz, expired boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT id, CAST(action AS text), account, secret, code, expires_at, consumed_at, expires_at <= clock_timestamp()
      FROM tokens
     WHERE id = token_find.by_id OR secret = token_find.by_secret;
END $$;
