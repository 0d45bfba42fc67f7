-- Trigger: make a token of the action that activates for each provisioned account of a statement.
--
-- If several actions activate, it takes the one with the lowest number. The others are asked for.
CREATE OR REPLACE FUNCTION mailroom.make_activation_tokens()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET timezone = 'UTC' AS $$
<<variables>>
DECLARE
    made_at timestamptz := clock_timestamp();  -- the transaction may have begun long before
    kind    text;
    lives   interval;
    newest  boolean;
    silent  text := nullif(current_setting('mailroom.unmailed', true), '');  -- see add_account
BEGIN
    IF NOT coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean
       OR silent = pg_trigger_depth()::text THEN
        RETURN NULL;
    END IF;
    SELECT name, life, newest_only INTO kind, lives, newest FROM actions WHERE activates ORDER BY number LIMIT 1;
    IF FOUND THEN
        INSERT INTO tokens (action, account, expires_at, address_hash, newest_only)
        SELECT variables.kind, id, variables.made_at + variables.lives, token_address_hash(email), variables.newest
          FROM added
         WHERE status = 'provisioned';
    END IF;
    RETURN NULL;
END $$;
