-- List what is known of addresses that are not to be mailed, a page at a time.
--
-- An address is shown as the beginning of its hash, which tells it from the others.
--
-- Arguments: after (the hash that the page before ended with; NULL: the first page), reasons (only these; NULL: any),
-- most.
--
-- Returns a row for each, by hash: the reason and when it came up, what SES told of it, and each moment on record.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.suppression_list(
    after text, reasons text[], most integer
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
    SELECT encode(substring(address_hash FOR 8), 'hex'), reason, type, subtype,
           CASE reason WHEN 'added' THEN added_at WHEN 'bounce' THEN bounced_at WHEN 'soft_bounces' THEN soft_at
                       ELSE complained_at END,
           bounced_at, soft_at, complained_at, added_at, lifted_at, released_at
      FROM suppressions
     WHERE address_hash > coalesce(decode(suppression_list.after, 'hex') || decode(repeat('ff', 8), 'hex'), '')
       AND reason IS NOT NULL
       AND (suppression_list.reasons IS NULL OR reason = ANY (suppression_list.reasons))
     ORDER BY address_hash
     LIMIT suppression_list.most;
END $$;
