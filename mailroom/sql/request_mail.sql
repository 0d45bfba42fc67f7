-- Ask for a mail: make a token of this action for an account. Its job is made with it.
--
-- Arguments: action; the account, by its id or by its reference; address (where the mail goes, if not to the account's own);
-- data (a JSON object, for the template; names that begin with lang_ are the claim's).
--
-- Returns the id of the token, which is that of the job. Raises no_data_found if there is no such account or action. Whether
-- the account's status fits, and how many it had lately, is asked when the mail is to leave: what is not mailed is on record.
-- Its life begins now, not with the transaction, which may have lasted as long.
--
-- Locks: what an insert of a token locks.
CREATE OR REPLACE FUNCTION mailroom.request_mail(
    action text, account bigint DEFAULT NULL, reference text DEFAULT NULL, address text DEFAULT NULL,
    data jsonb DEFAULT NULL
)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET timezone = 'UTC' AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    state  text;
    said   text;
    broken text;
    owner bigint := find_account(request_mail.account, request_mail.reference);
    kind  actions;
    made  bigint;
BEGIN
    SELECT * INTO kind FROM actions WHERE name = request_mail.action;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = format('there is no action %s', request_mail.action);
    END IF;
    IF kind.activates AND request_mail.address IS NOT NULL THEN
        RAISE invalid_parameter_value
            USING MESSAGE = format('%s activates: it proves the account''s own address, and goes to no other', kind.name);
    END IF;
    IF jsonb_path_exists(request_mail.data, 'strict $.keyvalue().key ? (@ starts with "lang_")', silent => true) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'names that begin with lang_ are for the language of the mail';
    END IF;
    INSERT INTO tokens (action, account, address, data, expires_at, address_hash, newest_only)
    SELECT variables.kind.name, id, request_mail.address, request_mail.data, clock_timestamp() + variables.kind.life,
           token_address_hash(email), variables.kind.newest_only
      FROM accounts
     WHERE id = variables.owner
    RETURNING id INTO made;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = 'there is no such account';
    END IF;
    RETURN made;
EXCEPTION
    WHEN integrity_constraint_violation THEN  -- the row that it would show is not for whoever calls
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, said = MESSAGE_TEXT, broken = CONSTRAINT_NAME;
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, CONSTRAINT = broken;
END $$;
