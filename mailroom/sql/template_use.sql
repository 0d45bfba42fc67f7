-- Use another template for an action, from the next claim on. A batch that is in flight keeps the one it was claimed with.
--
-- Arguments: action, template, and whether it may be one that nobody pushed, made by hand at SES.
--
-- Returns the name of the one before, which is the way back. Raises no_data_found if there is no such action, or no such
-- template was pushed for it; check_violation. Locks: the action's row.
CREATE OR REPLACE FUNCTION mailroom.template_use(
    action text, template text, unpushed boolean
)
    RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    before text;
BEGIN
    SELECT template INTO before FROM actions WHERE name = template_use.action FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE no_data_found USING MESSAGE = format('there is no action %s', template_use.action);
    END IF;
    IF NOT (template_use.unpushed OR EXISTS (
        SELECT FROM templates WHERE name = template_use.template AND action = template_use.action)) THEN
        RAISE no_data_found USING MESSAGE = format(
            'no template %s was pushed for %s', template_use.template, template_use.action);
    END IF;
    UPDATE actions SET template = template_use.template WHERE name = template_use.action;
    RETURN before;
END $$;
