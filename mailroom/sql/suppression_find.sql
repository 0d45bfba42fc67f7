-- Find what is known of an address, by its hash: also where that suppresses nothing any more.
--
-- Arguments: address (in any spelling that leads to the same mailbox; it is kept nowhere).
--
-- Returns one row, as suppression_list does; without a reason (NULL) where the address may be mailed.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.suppression_find(
    address text
)
    RETURNS TABLE (
        hash text, reason text, type text, subtype text, since timestamptz, bounced_at timestamptz, soft_at timestamptz,
        complained_at timestamptz, added_at timestamptz, lifted_at timestamptz, released_at timestamptz
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT encode(substring(given.hash FOR 8), 'hex'), reason, coalesce(type, ''), coalesce(subtype, ''),
           CASE reason WHEN 'added' THEN added_at WHEN 'bounce' THEN bounced_at WHEN 'soft_bounces' THEN soft_at
                       WHEN 'complaint' THEN complained_at END,
           bounced_at, soft_at, complained_at, added_at, lifted_at, released_at
      FROM (SELECT token_address_hash(suppression_find.address) AS hash) AS given
      LEFT JOIN suppressions ON suppressions.address_hash = given.hash;
END $$;
