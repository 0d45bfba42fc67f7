-- Add an account: for an application that has no right on the table.
--
-- Arguments: as the columns of accounts; and mails: whether a provisioned one gets its activation mail. Without, ask for
-- another, as for an invitation. Returns its id. Raises what the insert raises: unique_violation, check_violation.
--
-- mailroom.unmailed names the one account that is to get none: what triggers of the application's own ask for, in the same
-- statement, is mailed as ever.
--
-- Locks: what an insert locks.
CREATE OR REPLACE FUNCTION mailroom.add_account(
    email text, login text, status text DEFAULT 'provisioned', language text DEFAULT NULL, tenant text DEFAULT '',
    reference text DEFAULT NULL, mails boolean DEFAULT true
)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    state  text;
    said   text;
    broken text;
    added  bigint := nextval(pg_get_serial_sequence('accounts', 'id'));
BEGIN
    IF NOT mails THEN
        PERFORM set_config('mailroom.unmailed', added::text, true);
    END IF;
    INSERT INTO accounts (id, email, login, status, language, tenant, reference)
    OVERRIDING SYSTEM VALUE
    VALUES (added, add_account.email, add_account.login, CAST(add_account.status AS account_status),
            add_account.language, add_account.tenant, add_account.reference)
    RETURNING id INTO added;
    RETURN added;
EXCEPTION
    WHEN integrity_constraint_violation THEN  -- the row that it would show is not for whoever calls
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, said = MESSAGE_TEXT, broken = CONSTRAINT_NAME;
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, CONSTRAINT = broken;
END $$;
