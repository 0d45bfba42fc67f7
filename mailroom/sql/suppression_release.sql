-- Let an address be mailed again, whatever is known of it, because a person says so.
--
-- What happened before that suppresses it no more, even if it is absorbed later. What happens after it does.
--
-- Arguments: address (in any spelling that leads to the same mailbox; only its hash is kept).
--
-- Returns one row: the beginning of its hash, and for what reason it was suppressed (NULL: it was not).
--
-- Locks: its suppression, waiting for who holds it.
CREATE OR REPLACE FUNCTION mailroom.suppression_release(
    address text
)
    RETURNS TABLE (
        hash text, was text
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    given  bytea := token_address_hash(suppression_release.address);
    before text;
BEGIN
    INSERT INTO suppressions (address_hash) VALUES (given) ON CONFLICT DO NOTHING;
    SELECT reason INTO before FROM suppressions WHERE address_hash = variables.given FOR UPDATE;
    UPDATE suppressions
       SET released_at = greatest(clock_timestamp(), bounced_at, soft_at, complained_at, added_at),
           type = '', subtype = ''
     WHERE address_hash = variables.given;
    RETURN QUERY SELECT encode(substring(given FOR 8), 'hex'), before;
END $$;
