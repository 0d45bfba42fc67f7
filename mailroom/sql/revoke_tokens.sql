-- Revoke the tokens of an account that are not consumed: their links are dead, and what waits is cancelled.
--
-- Arguments: the account, by its id or by its reference; and the action (NULL: all of them).
--
-- Returns how many, which may be none. Raises no_data_found if there is no such account or action: whoever misspells one
-- would take links that are good for dead. Locks: the account, as who consumes does, then its tokens.
CREATE OR REPLACE FUNCTION mailroom.revoke_tokens(
    account bigint DEFAULT NULL, reference text DEFAULT NULL, action text DEFAULT NULL
)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    owner   bigint := find_account(revoke_tokens.account, revoke_tokens.reference);
    revoked bigint;
BEGIN
    IF revoke_tokens.action IS NOT NULL AND NOT EXISTS (SELECT FROM actions WHERE name = revoke_tokens.action) THEN
        RAISE no_data_found USING MESSAGE = format('there is no action %s', revoke_tokens.action);
    END IF;
    PERFORM FROM accounts WHERE id = variables.owner FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = 'there is no such account';
    END IF;
    DELETE FROM tokens
     WHERE account = variables.owner
       AND (revoke_tokens.action IS NULL OR action = revoke_tokens.action)
       AND consumed_at IS NULL;
    GET DIAGNOSTICS revoked = ROW_COUNT;
    RETURN revoked;
END $$;
