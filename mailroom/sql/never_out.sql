-- Say whether a message that SES accepted never went out: it failed to render, or was rejected for its content.
--
-- An acceptance is believed whenever it turns up, and so is its contradiction: by all who ask whether a mail is out, and
-- they ask it here.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.never_out(
    message text
)
    RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN EXISTS (
        SELECT FROM events WHERE message_id = never_out.message AND kind IN ('rendering_failure', 'reject')
    );
END $$;
