-- Add an account: for an application that has no right on the table.
--
-- Arguments: as the columns of accounts; and mails: whether a provisioned account gets its activation mail. If it gets
-- none, ask for another mail, such as an invitation. Returns its id. Raises what the insert raises: unique_violation,
-- check_violation.
--
-- The setting mailroom.unmailed names the depth at which the triggers of this one insert run. So this account is not
-- mailed, whatever triggers of the application make of its row, even of its id. What those triggers ask for or insert
-- themselves is mailed as ever.
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
    silent text := coalesce(current_setting('mailroom.unmailed', true), '');
    added  bigint;
BEGIN
    IF NOT mails THEN
        PERFORM set_config('mailroom.unmailed', CAST(pg_trigger_depth() + 1 AS text), true);
    END IF;
    INSERT INTO accounts (email, login, status, language, tenant, reference)
    VALUES (add_account.email, add_account.login, CAST(add_account.status AS account_status),
            add_account.language, add_account.tenant, add_account.reference)
    RETURNING id INTO added;
    IF NOT mails THEN
        PERFORM set_config('mailroom.unmailed', silent, true);
    END IF;
    RETURN added;
EXCEPTION
    WHEN integrity_constraint_violation THEN  -- the row that it would show is not for whoever calls
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, said = MESSAGE_TEXT, broken = CONSTRAINT_NAME;
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, CONSTRAINT = broken;
END $$;
