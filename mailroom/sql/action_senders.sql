-- Say who sends the mails of which kinds, and who gets the answers, where that is not as it is for all.
--
-- Returns a row for each such kind of mail: its name, and source and reply_to as columns of actions have them; NULL: as
-- it is for all.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.action_senders()
    RETURNS TABLE (
        name text, source text, reply_to text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT CAST(name AS text), source, reply_to
      FROM actions
     WHERE source IS NOT NULL OR reply_to IS NOT NULL
     ORDER BY number;
END $$;
