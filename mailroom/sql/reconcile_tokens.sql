-- Enqueue tokens that are in no place (see reconcile).
--
-- Arguments: ids (of tokens), and of each its action, priority and attempts; queue (which the jobs go to).
--
-- Returns the tokens that were enqueued. A trigger, a rule or a constraint of the application's own may refuse some, which
-- must not keep the others: so where any are refused, each half is tried by itself, and one that is refused alone comes
-- again with the next look.
--
-- Locks: nothing. Whoever calls it works alone.
CREATE OR REPLACE FUNCTION mailroom.reconcile_tokens(
    ids bigint[], actions text[], priorities integer[], attempts integer[], queue text
)
    RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    enqueued bigint[] := '{}';
    half     integer := cardinality(reconcile_tokens.ids) / 2;
BEGIN
    BEGIN
        WITH found AS (
            INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
            SELECT lost.token, clock_timestamp(), lost.action, lost.priority, lost.attempt, reconcile_tokens.queue
              FROM unnest(reconcile_tokens.ids, reconcile_tokens.actions, reconcile_tokens.priorities,
                          reconcile_tokens.attempts) AS lost (token, action, priority, attempt)
            ON CONFLICT (token) DO NOTHING
            RETURNING token
        )
        SELECT coalesce(array_agg(token ORDER BY token), '{}') INTO enqueued FROM found;
        SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of all
    EXCEPTION
        -- Each would meet these, and wait. What is hidden (insufficient_privilege) is not what is not there.
        WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR insufficient_privilege THEN
            RAISE;
        WHEN OTHERS THEN
            IF half > 0 THEN
                enqueued := reconcile_tokens(ids[:half], actions[:half], priorities[:half], attempts[:half], queue)
                    || reconcile_tokens(
                        ids[half + 1:], actions[half + 1:], priorities[half + 1:], attempts[half + 1:], queue);
            ELSE
                enqueued := '{}';
                RAISE WARNING 'mailroom: token % has no job, may not be enqueued, and is tried again: %', ids[1], SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('reconcile token=%s', ids[1]);
            END IF;
    END;
    RETURN enqueued;
END $$;
