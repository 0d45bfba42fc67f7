-- Find an account that is named by its id or by its reference.
--
-- Arguments: one of the two; the other is NULL. Raises invalid_parameter_value for none and for both.
--
-- Returns its id; NULL if there is none. Locks: nothing. Plan: one for each of the two, by its own index, whatever a role sets.
CREATE OR REPLACE FUNCTION mailroom.find_account(
    account bigint, reference text
)
    RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF num_nonnulls(find_account.account, find_account.reference) <> 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'an account is named by its id or by its reference';
    END IF;
    IF find_account.account IS NOT NULL THEN
        RETURN (SELECT id FROM accounts WHERE id = find_account.account);
    END IF;
    RETURN (SELECT id FROM accounts WHERE reference = find_account.reference);
END $$;
