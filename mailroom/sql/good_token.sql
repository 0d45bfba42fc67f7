-- Find the token of this secret, if it can be consumed now.
--
-- Returns its id; NULL if it is gone, is of another action, has expired or been consumed, if a newer one of its action was
-- consumed, or if its account has another address by now, or another status than it needs. Nothing but its code is left to
-- ask. Of an account's tokens of an action the consumed one ends all that are older: that follows from their ids, and is
-- written nowhere. clock_timestamp(): a wait for a lock may outlast the token.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.good_token(
    wanted_secret bytea, wanted_action text
)
    RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET join_collapse_limit = 1 AS $$
#variable_conflict use_column
BEGIN
    -- LIMIT, and no EXISTS: a look by index for each, whatever there was when the plan was made.
    RETURN (
        SELECT token.id
          FROM (SELECT id, account, action, address_hash
                  FROM tokens
                 WHERE secret = good_token.wanted_secret AND action = good_token.wanted_action
                   AND consumed_at IS NULL AND expires_at > clock_timestamp()
                 LIMIT 1) AS token
         CROSS JOIN LATERAL (SELECT status, email FROM accounts WHERE id = token.account LIMIT 1) AS owner
         CROSS JOIN LATERAL (SELECT needs FROM actions WHERE name = token.action LIMIT 1) AS kind
         WHERE owner.status = kind.needs AND token.address_hash = token_address_hash(owner.email)
           AND (SELECT true
                  FROM tokens AS newer
                 WHERE newer.account = token.account AND newer.action = token.action AND newer.id > token.id
                   AND newer.consumed_at IS NOT NULL
                 LIMIT 1) IS NULL
    );
END $$;
