-- Trigger: fill in the moments of an account that does not begin as provisioned.
--
-- One that starts active counts as activated. Otherwise, when it is un-suspended later, it would be taken for one that
-- never was.
CREATE OR REPLACE FUNCTION mailroom.account_starts()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    IF NEW.status = 'active' THEN
        NEW.activated_at := coalesce(NEW.activated_at, now());
    ELSE
        NEW.suspended_at := coalesce(NEW.suspended_at, now());
    END IF;
    RETURN NEW;
END $$;
