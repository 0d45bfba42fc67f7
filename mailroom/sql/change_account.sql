-- Change an account: for an application that has no right on the table.
--
-- Arguments: the account, by its id or by its reference; and what is to be different: email, login, status, language (empty:
-- none), new_reference. What is NULL stays as it is.
--
-- Returns whether there is such an account.
--
-- Locks: the account.
CREATE OR REPLACE FUNCTION mailroom.change_account(
    account bigint DEFAULT NULL, reference text DEFAULT NULL, email text DEFAULT NULL, login text DEFAULT NULL,
    status text DEFAULT NULL, language text DEFAULT NULL, new_reference text DEFAULT NULL
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<var>>
DECLARE
    state  text;
    said   text;
    broken text;
    owner bigint := find_account(change_account.account, change_account.reference);
BEGIN
    UPDATE accounts
       SET email = coalesce(change_account.email, email), login = coalesce(change_account.login, login),
           status = coalesce(CAST(change_account.status AS account_status), status),
           language = nullif(coalesce(change_account.language, language), ''),
           reference = coalesce(change_account.new_reference, reference)
     WHERE id = var.owner;
    RETURN FOUND;
EXCEPTION
    WHEN integrity_constraint_violation THEN  -- the row that it would show is not for whoever calls
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, said = MESSAGE_TEXT, broken = CONSTRAINT_NAME;
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, CONSTRAINT = broken;
END $$;
