-- Say whether an account is as the mail of one of its tokens needs it: yes or no, and nothing of whose it is.
--
-- Arguments: token.
--
-- Returns whether the account has the address that it had when the token was made, and the status that its action needs;
-- NULL where there is no such token.
--
-- Locks: nothing.
--
-- Plan: made for each call: a row by key of each table.
CREATE OR REPLACE FUNCTION mailroom.browse_fits(
    token bigint
)
    RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN (
        SELECT owner.status = kind.needs AND wanted.address_hash = token_address_hash(owner.email)
          FROM (SELECT account, action, address_hash FROM tokens WHERE id = browse_fits.token LIMIT 1) AS wanted
         CROSS JOIN LATERAL (SELECT status, email FROM accounts WHERE id = wanted.account LIMIT 1) AS owner
         CROSS JOIN LATERAL (SELECT needs FROM actions WHERE name = wanted.action LIMIT 1) AS kind
    );
END $$;
