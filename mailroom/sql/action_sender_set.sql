-- Change who sends the mails of a kind, and who gets the answers. It counts for what leaves from now on.
--
-- Arguments: name, and as the columns of actions what is to be different; what is NULL stays. An empty text: as it is
-- for all.
--
-- Returns whether there is such an action. Raises check_violation. Locks: its row.
CREATE OR REPLACE FUNCTION mailroom.action_sender_set(
    name text, source text, reply_to text
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    UPDATE actions
       SET source = nullif(coalesce(action_sender_set.source, source), ''),
           reply_to = nullif(coalesce(action_sender_set.reply_to, reply_to), '')
     WHERE name = action_sender_set.name;
    RETURN FOUND;
END $$;
