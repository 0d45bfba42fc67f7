-- Trigger: keep of a kind of mail what links that are out rely on, and the row itself while something names it.
--
-- Another template is kept with its moment, as the end of a pause by hand is: what was claimed before that, and does not
-- render, says nothing of it (see take_back).
--
-- Where it was the last kind of mail without a sender of its own, the pause of that of all others ends (see sender_scope):
-- no mail could try it any more. A pause by hand ends by hand.
--
-- Locks: when its pause was last ended by hand, and that pause.
CREATE OR REPLACE FUNCTION mailroom.action_changes()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.name, NEW.number, NEW.path, NEW.has_code) IS DISTINCT FROM (OLD.name, OLD.number, OLD.path, OLD.has_code) THEN
            RAISE restrict_violation USING MESSAGE = format(
                'name, number, path and has_code of action %s are in links and lines that are out: add another action', OLD.name);
        END IF;
        IF NEW.template IS DISTINCT FROM OLD.template THEN
            INSERT INTO resumptions (scope, resumed_at) VALUES (NEW.name, clock_timestamp())
            ON CONFLICT (scope) DO UPDATE SET resumed_at = excluded.resumed_at;
        END IF;
        IF OLD.source IS NULL AND NEW.source IS NOT NULL
           AND NOT EXISTS (SELECT FROM actions WHERE source IS NULL AND name <> OLD.name) THEN
            DELETE FROM pauses WHERE scope = 'identity' AND probe_at IS NOT NULL;
        END IF;
        RETURN NEW;
    END IF;
    -- What is being inserted has to be seen, and what was since the snapshot: at another level there is no new one.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE invalid_transaction_state USING MESSAGE = format(
            'action %s is deleted at READ COMMITTED, where whoever asks for its mails meanwhile is seen', OLD.name);
    END IF;
    LOCK TABLE tokens IN SHARE MODE;
    IF EXISTS (SELECT FROM tokens WHERE action = OLD.name) OR EXISTS (SELECT FROM jobs WHERE action = OLD.name)
       OR EXISTS (SELECT FROM batches WHERE action = OLD.name) THEN
        RAISE restrict_violation USING MESSAGE = format('there are tokens or jobs of action %s', OLD.name);
    END IF;
    RETURN OLD;
END $$;
