-- Trigger: keep the rows of a table from being taken away where each of them must be there.
CREATE OR REPLACE FUNCTION mailroom.rows_stay()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    RAISE restrict_violation USING MESSAGE = format('without the rows of %s no mail is sent: they stay', TG_TABLE_NAME),
        HINT = 'UPDATE them; or, to put others in their place at once, SET mailroom.triggers = off.';
END $$;
