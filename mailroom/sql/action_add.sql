-- Add a kind of mail.
--
-- Arguments: as the columns of actions; number may be NULL: the next one that is free.
--
-- Returns its number. Raises what the insert raises: unique_violation, check_violation. Locks: the table, against others
-- that add one at the same time.
CREATE OR REPLACE FUNCTION mailroom.action_add(
    name text, number smallint, template text, path text, life interval, has_code boolean, priority smallint,
    needs text, renews boolean, newest_only boolean, per_15_minutes integer, per_day integer, activates boolean
)
    RETURNS smallint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    added smallint;
BEGIN
    LOCK TABLE actions IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO actions (
        name, number, template, path, life, has_code, priority, needs, renews, newest_only, per_15_minutes, per_day,
        activates)
    VALUES (
        action_add.name, coalesce(action_add.number, (SELECT 1 + coalesce(max(number), 0) FROM actions)),
        action_add.template, action_add.path, action_add.life, action_add.has_code, action_add.priority,
        CAST(action_add.needs AS account_status), action_add.renews, action_add.newest_only, action_add.per_15_minutes,
        action_add.per_day, action_add.activates)
    RETURNING number INTO added;
    RETURN added;
END $$;
