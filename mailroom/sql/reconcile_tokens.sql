-- Enqueue tokens that are in no place (see reconcile), in the order in which they are given.
--
-- Arguments: ids (of tokens), and of each its action, priority and attempts; queue (which the jobs go to); and tries: how
-- many times something is inserted at most. Each is a subtransaction.
--
-- Returns one row: the tokens that were enqueued, and of how many, from the first on, it is decided. A trigger, a rule or a
-- constraint of the application's own may refuse some, which must not keep the others: so where any are refused, half as
-- many are tried, and after that twice as many again. One that is refused alone comes again with a later look. Where no
-- try is left, the rest waits for the next one: all of them may be refused.
--
-- Locks: nothing. Whoever calls it works alone.
CREATE OR REPLACE FUNCTION mailroom.reconcile_tokens(
    ids bigint[], actions text[], priorities integer[], attempts integer[], queue text, tries integer
)
    RETURNS TABLE (
        enqueued bigint[], decided integer
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    most  integer := coalesce(cardinality(reconcile_tokens.ids), 0);
    size  integer := most;
    upto  integer;
    added bigint[];
BEGIN
    enqueued := '{}';
    decided := 0;
    FOR try IN 1..reconcile_tokens.tries LOOP
        EXIT WHEN decided = most;
        upto := least(decided + size, most);
        BEGIN
            WITH found AS (
                INSERT INTO jobs (token, due_at, action, priority, attempt, queue)
                SELECT lost.token, clock_timestamp(), lost.action, lost.priority, lost.attempt, reconcile_tokens.queue
                  FROM unnest(reconcile_tokens.ids[decided + 1:upto], reconcile_tokens.actions[decided + 1:upto],
                              reconcile_tokens.priorities[decided + 1:upto], reconcile_tokens.attempts[decided + 1:upto])
                       AS lost (token, action, priority, attempt)
                ON CONFLICT (token) DO NOTHING
                RETURNING token
            )
            SELECT array_agg(token) INTO added FROM found;
            SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of all
            enqueued := enqueued || added;
            decided := upto;
            size := 2 * size;
        EXCEPTION
            -- Each would meet these, and wait. What is hidden (insufficient_privilege) is not what is not there.
            WHEN lock_not_available OR transaction_rollback OR insufficient_resources OR insufficient_privilege THEN
                RAISE;
            WHEN OTHERS THEN
                size := (upto - decided) / 2;
                IF size = 0 THEN
                    RAISE WARNING 'mailroom: token % has no job, may not be enqueued, and is tried again: %',
                                  ids[upto], SQLERRM
                        USING ERRCODE = SQLSTATE, DETAIL = format('reconcile token=%s', ids[upto]);
                    decided := upto;
                    size := 1;
                END IF;
        END;
    END LOOP;
    RETURN NEXT;
END $$;
