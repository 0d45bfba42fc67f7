-- Remove an account and its tokens: for an application that has no right on the table. What waits for it is cancelled.
--
-- Arguments: the account, by its id or by its reference. Returns whether there was such an account.
--
-- Locks: the account, then its tokens.
CREATE OR REPLACE FUNCTION mailroom.remove_account(
    account bigint DEFAULT NULL, reference text DEFAULT NULL
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<var>>
DECLARE
    owner bigint := find_account(remove_account.account, remove_account.reference);
BEGIN
    DELETE FROM accounts WHERE id = var.owner;
    RETURN FOUND;
END $$;
