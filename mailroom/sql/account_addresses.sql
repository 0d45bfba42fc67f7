-- Say who these accounts are: for an operator who asks for it.
--
-- Arguments: accounts (ids, an array).
--
-- Returns a row for each that is there: its id, email and login.
--
-- Locks: nothing.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.account_addresses(
    accounts bigint[]
)
    RETURNS TABLE (
        account bigint, email text, login text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT id, email, login FROM accounts WHERE id = ANY (account_addresses.accounts);
END $$;
