-- Trigger: keep the moments of an account whose status changes.
CREATE OR REPLACE FUNCTION mailroom.account_status_changes()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    IF OLD.status = 'suspended' THEN
        NEW.unsuspended_at := now();
        NEW.suspended_at := NULL;
        IF NEW.status = 'active' AND NEW.activated_at IS NULL THEN
            NEW.status := 'provisioned';
        END IF;
    ELSIF NEW.status = 'suspended' THEN
        NEW.suspended_at := now();
        NEW.unsuspended_at := NULL;
    ELSIF NEW.status = 'active' THEN
        NEW.activated_at := now();
    END IF;
    NEW.status_changed_at := now();
    RETURN NEW;
END $$;
