-- Put on record that jobs are finished whose mails are not wanted any more.
--
-- Arguments: ended (jobs of a claim, with why in error_code), and their queue, priority and action.
--
-- Returns the tokens of those that are on record. A trigger or a rule of the application's own may refuse some, which must
-- not keep the others waiting: so where one is refused, each is tried by itself.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.jobs_end(
    ended claimed_job[], queue text, priority smallint, action text
)
    RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    recorded bigint[] := '{}';
    single   claimed_job;
BEGIN
    BEGIN
        WITH logged AS (
            INSERT INTO deliveries (token, account, batch, fence, queue, priority, action, outcome, attempt, message_id, error_code)
            SELECT token, account, accepted_in, accepted_fence, jobs_end.queue, jobs_end.priority, CAST(jobs_end.action AS token_action),
                   CAST(CASE WHEN error_code = 'AcceptedLate' THEN 'sent' WHEN error_code = 'TokenExpired' THEN 'expired'
                             WHEN starts_with(error_code, 'Suppressed') THEN 'suppressed' ELSE 'cancelled' END
                        AS delivery_outcome), attempt, nullif(message_id, ''), error_code
              FROM unnest(jobs_end.ended)
            RETURNING token
        )
        SELECT coalesce(array_agg(logged.token), '{}') INTO recorded FROM logged;
        SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of the claim
    EXCEPTION
        WHEN OTHERS THEN
            recorded := '{}';
            IF cardinality(ended) > 1 THEN
                FOREACH single IN ARRAY ended LOOP
                    recorded := recorded || jobs_end(ARRAY[single], queue, priority, action);
                END LOOP;
            ELSE
                RAISE WARNING 'mailroom: that the job of token % is finished was refused, and it waits: %', (ended[1]).token, SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('end token=%s', (ended[1]).token);
            END IF;
    END;
    RETURN recorded;
END $$;
