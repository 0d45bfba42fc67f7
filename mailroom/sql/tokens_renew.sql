-- Let these tokens live for `life` from now on.
--
-- Arguments: ids, and life (an interval).
--
-- Returns the ids of those that were renewed. Another may be locked, because it is being consumed or deleted. A trigger
-- or a rule of the application may refuse some, which must not keep the mails of the others waiting: so if one is
-- refused, each is tried by itself.
--
-- Locks: the tokens by id, skipping what others hold.
CREATE OR REPLACE FUNCTION mailroom.tokens_renew(
    ids bigint[], life interval
)
    RETURNS bigint[]
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    renewed bigint[] := '{}';
    single  bigint;
BEGIN
    BEGIN
        WITH renewable AS MATERIALIZED (
            SELECT id FROM tokens WHERE id = ANY (tokens_renew.ids) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
        ),
        living AS (
            UPDATE tokens SET expires_at = now() + tokens_renew.life WHERE id = ANY (ARRAY(SELECT id FROM renewable))
            RETURNING id
        )
        SELECT coalesce(array_agg(living.id), '{}') INTO renewed FROM living;
        SET CONSTRAINTS ALL IMMEDIATE;  -- what is deferred would fail the commit of the claim
    EXCEPTION
        WHEN OTHERS THEN
            renewed := '{}';
            IF cardinality(tokens_renew.ids) > 1 THEN
                FOREACH single IN ARRAY tokens_renew.ids LOOP
                    renewed := renewed || tokens_renew(ARRAY[single], tokens_renew.life);
                END LOOP;
            ELSE
                RAISE WARNING 'mailroom: token % was not renewed, and its mail waits: %', tokens_renew.ids[1], SQLERRM
                    USING ERRCODE = SQLSTATE, DETAIL = format('renew token=%s', tokens_renew.ids[1]);
            END IF;
    END;
    RETURN renewed;
END $$;
