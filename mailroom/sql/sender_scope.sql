-- Say by which scope the mails of an action are paused when SES does not take the sender that all share.
--
-- NULL: by none, since it has one of its own, of which others' mails tell nothing.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.sender_scope(
    action text
)
    RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN (SELECT 'identity' FROM actions WHERE actions.name = sender_scope.action AND actions.source IS NULL);
END $$;
