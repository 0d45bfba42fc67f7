-- Trigger: let nobody empty actions by TRUNCATE, since tokens and jobs name its rows.
CREATE OR REPLACE FUNCTION mailroom.actions_stay()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    RAISE restrict_violation USING MESSAGE = 'tokens and jobs name the rows of actions: delete those that nothing names',
        HINT = format('TRUNCATE %I.accounts CASCADE empties what tests fill.', TG_TABLE_SCHEMA);
END $$;
