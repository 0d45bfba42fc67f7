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
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT tokens.id
          FROM tokens
          JOIN accounts ON accounts.id = tokens.account
          JOIN actions ON actions.name = tokens.action
         WHERE tokens.secret = wanted_secret AND tokens.action = wanted_action
           AND tokens.consumed_at IS NULL AND tokens.expires_at > clock_timestamp()
           AND accounts.status = actions.needs
           AND tokens.address_hash = token_address_hash(accounts.email)
           AND NOT EXISTS (
               SELECT FROM tokens AS newer
                WHERE newer.account = tokens.account AND newer.action = tokens.action AND newer.id > tokens.id
                  AND newer.consumed_at IS NOT NULL
               )
    );
END $$;
