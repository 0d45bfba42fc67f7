-- Suppress an address because a person says so: nothing is mailed to it until a person releases it.
--
-- Arguments: address (in any spelling that leads to the same mailbox; only its hash is kept).
--
-- Returns one row: the beginning of its hash, and whether it was added; not, where it had been already.
--
-- Locks: its suppression, waiting for who holds it.
CREATE OR REPLACE FUNCTION mailroom.suppression_add(
    address text
)
    RETURNS TABLE (
        hash text, added boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT token_address_hash(suppression_add.address) AS hash
    ),
    entered AS (
        INSERT INTO suppressions (address_hash, added_at)
        SELECT hash, clock_timestamp() FROM given
        ON CONFLICT (address_hash) DO UPDATE
           SET added_at = greatest(excluded.added_at, suppressions.released_at + interval '1 microsecond'),
               type = '', subtype = ''
         WHERE suppressions.reason IS DISTINCT FROM 'added'
        RETURNING address_hash
    )
    SELECT encode(substring(hash FOR 8), 'hex'), EXISTS (SELECT FROM entered) FROM given;
END $$;
