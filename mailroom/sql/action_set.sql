-- Change a kind of mail. What waits of it already is mailed as it says then.
--
-- Arguments: name, and as the columns of actions what is to be different; what is NULL stays. A limit of -1: none.
--
-- Returns whether there is such an action. Raises check_violation. Locks: its row.
CREATE OR REPLACE FUNCTION mailroom.action_set(
    name text, template text, life interval, priority smallint, needs text, renews boolean, newest_only boolean,
    per_15_minutes integer, per_day integer, activates boolean
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    UPDATE actions
       SET template = coalesce(action_set.template, template), life = coalesce(action_set.life, life),
           priority = coalesce(action_set.priority, priority),
           needs = coalesce(CAST(action_set.needs AS account_status), needs),
           renews = coalesce(action_set.renews, renews), newest_only = coalesce(action_set.newest_only, newest_only),
           per_15_minutes = nullif(coalesce(action_set.per_15_minutes, per_15_minutes), -1),
           per_day = nullif(coalesce(action_set.per_day, per_day), -1),
           activates = coalesce(action_set.activates, activates)
     WHERE name = action_set.name;
    RETURN FOUND;
END $$;
