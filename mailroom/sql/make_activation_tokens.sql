-- Trigger: make a token for each provisioned account of a statement, of the action that activates. Of several, that with
-- the lowest number: the others are asked for.
CREATE OR REPLACE FUNCTION mailroom.make_activation_tokens()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET timezone = 'UTC' AS $$
DECLARE
    -- The beginning of what is no boolean: there the name of the setting is put, so that the error has it.
    odd  constant text := '^(?!\s*(t(r(ue?)?)?|f(a(l(se?)?)?)?|y(es?)?|no?|on|off?|1|0)\s*$)';
    kind actions;
BEGIN
    IF NOT regexp_replace(coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on'), odd, 'mailroom.triggers is ', 'i')::boolean THEN
        RETURN NULL;
    END IF;
    SELECT * INTO kind FROM actions WHERE activates ORDER BY number LIMIT 1;
    IF FOUND THEN
        INSERT INTO tokens (action, account, expires_at, address_hash, newest_only)
        SELECT kind.name, id, now() + kind.life, token_address_hash(email), kind.newest_only FROM added WHERE status = 'provisioned';
    END IF;
    RETURN NULL;
END $$;
