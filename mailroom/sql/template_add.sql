-- Put on record that a template is at SES: only what is here is used without further questions, and has its languages told.
--
-- Arguments: name (with its hash), action, languages (in small letters, as in pt-br) and default_language, one of them.
--
-- Returns whether it is new. What is there already stays: the hash says that it is the same. Raises no_data_found if there
-- is no such action, check_violation. Locks: the row.
CREATE OR REPLACE FUNCTION mailroom.template_add(
    name text, action text, languages text[], default_language text
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM actions WHERE name = template_add.action) THEN
        RAISE no_data_found USING MESSAGE = format('there is no action %s', template_add.action);
    END IF;
    INSERT INTO templates (name, action, languages, default_language)
    VALUES (template_add.name, template_add.action, template_add.languages, template_add.default_language)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;
