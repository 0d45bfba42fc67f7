-- Mark a good token (see good_token) consumed.
--
-- Arguments: wanted_secret and wanted_action; given_code, where the action has one. This is a guess at it, which counts once
-- it is committed: commit also where nothing is returned. counted: count_guess was called for it, and committed.
--
-- Returns a row: the account, its reference, and the address that the mail went to. None where the token is not good, the
-- code is another, or somebody else is in the way: what others do at the same moment is no error of who consumes. But where
-- the snapshot is the transaction's, and does not show what others did, nothing is known of the token: that is a
-- serialization_failure, as of any statement there, and the transaction is to be tried again.
--
-- Locks: the account first: deleting an account locks it before its tokens, so both go the same way round. What is good is
-- asked after that, in a new snapshot, and of the token's own row once more when that is locked as well. Where the snapshot
-- is the transaction's, newer tokens of the account and action are locked first: of one that was consumed since, that fails.
--
-- What is returned is kept until the triggers have run: what RETURN QUERY has given stays given when one of them fails, and
-- all is undone.
CREATE OR REPLACE FUNCTION mailroom.consume_token(
    wanted_secret bytea, wanted_action text, given_code text DEFAULT NULL, counted boolean DEFAULT false
)
    RETURNS TABLE (
        account bigint, reference text, address text
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    has_code boolean := (SELECT actions.has_code FROM actions WHERE name = consume_token.wanted_action);
BEGIN
    PERFORM 1 FROM accounts
     WHERE id = (SELECT tokens.account FROM tokens WHERE secret = consume_token.wanted_secret) FOR NO KEY UPDATE;
    IF has_code AND counted IS NOT TRUE
       AND (guesses_left(wanted_secret) IS NULL OR count_guess(wanted_secret) IS NOT TRUE) THEN
        RETURN;
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM 1 FROM tokens
          WHERE id = ANY (ARRAY(
                SELECT newer.id
                  FROM (SELECT id, account, action FROM tokens WHERE secret = consume_token.wanted_secret) AS given
                 CROSS JOIN LATERAL (
                       SELECT id, action, consumed_at
                         FROM tokens
                        WHERE tokens.account = given.account
                       OFFSET 0) AS newer  -- or all that are newer would be walked over, whoever's they are
                 WHERE newer.id > given.id AND newer.action = given.action AND newer.consumed_at IS NULL))
          ORDER BY id
            FOR NO KEY UPDATE;
    END IF;
    WITH consumed AS (
        UPDATE tokens SET consumed_at = clock_timestamp()
         WHERE id = good_token(consume_token.wanted_secret, consume_token.wanted_action)
           AND consumed_at IS NULL AND expires_at > clock_timestamp()
           AND (NOT variables.has_code OR code = consume_token.given_code)
        RETURNING tokens.account, tokens.address
    )
    SELECT consumed.account, accounts.reference, coalesce(consumed.address, accounts.email)
      INTO consume_token.account, consume_token.reference, consume_token.address
      FROM consumed
      JOIN accounts ON accounts.id = consumed.account;
    IF FOUND THEN
        RETURN NEXT;
    END IF;
EXCEPTION
    WHEN transaction_rollback OR lock_not_available THEN
        IF SQLSTATE = '40001' AND current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
            RAISE;
        END IF;
        RETURN;
END $$;
