-- Trigger: activate an account when a token that activates is consumed. Whoever consumes a token has read the mailbox: what
-- was taken for dead is not. Where the mail went to another address than the account's own, that one is proven alone; and
-- where the account has another one by now, that one is not. Whoever marks a token by hand asks for none of this.
CREATE OR REPLACE FUNCTION mailroom.activate_account()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    IF (NEW.address IS NULL OR token_address_hash(NEW.address) = NEW.address_hash)
       AND (SELECT activates FROM actions WHERE name = NEW.action) THEN
        UPDATE accounts
           SET status = 'active'
         WHERE id = NEW.account AND status = 'provisioned' AND token_address_hash(email) = NEW.address_hash;
    END IF;
    UPDATE suppressions SET lifted_at = greatest(lifted_at, clock_timestamp(), bounced_at, soft_at)
     WHERE address_hash = CASE WHEN NEW.address IS NULL THEN NEW.address_hash ELSE token_address_hash(NEW.address) END;
    RETURN NULL;
END $$;
