-- Trigger: fill in how long a token lives and which address it proves, where that is not given.
--
-- It lives from now on, not from the beginning of its transaction, which may have lasted as long as a link does.
CREATE OR REPLACE FUNCTION mailroom.token_starts()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET timezone = 'UTC' AS $$
BEGIN
    SELECT coalesce(NEW.expires_at, clock_timestamp() + life), newest_only,
           coalesce(NEW.address_hash, (SELECT token_address_hash(email) FROM accounts WHERE id = NEW.account))
      INTO NEW.expires_at, NEW.newest_only, NEW.address_hash
      FROM actions
     WHERE name = NEW.action;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('there is no action %s', NEW.action);
    END IF;
    IF NEW.address_hash IS NULL THEN  -- of nobody, or of somebody whom row-level security hides
        RAISE foreign_key_violation
            USING MESSAGE = format('there is no account %s whose address could be proven', NEW.account);
    END IF;
    RETURN NEW;
END $$;
