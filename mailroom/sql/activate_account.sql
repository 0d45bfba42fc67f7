-- Trigger: act on a token that is consumed: its mailbox is alive, and its account may become active.
--
-- Whoever consumes a token has read the mailbox, so a suppression of that address is lifted. A token whose action
-- activates makes a provisioned account active, if the mail went to the account's own address and the account still has
-- it. The trigger does not run while mailroom.triggers is off.
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
