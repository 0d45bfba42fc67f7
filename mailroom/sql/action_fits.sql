-- Say whether an account may get another mail of an action that is limited. No other claim can take one of it until this
-- transaction ends.
--
-- Arguments: owner (the account), own (the token, which does not stand in its own way), of_action, per_15_minutes and
-- per_day (NULL: no limit).
--
-- Returns NULL if somebody has locked the account, or it is gone.
--
-- A mail that may have gone out twice is one mail: its copies are not the account's doing. What lies in the future was
-- before a clock was set back, nobody knows when: it is not counted. Few mails are in flight, and an account may have a
-- million tokens: hence the subquery, which cannot become a join.
--
-- Locks: the account, skipping what others hold: whoever only may connect cannot hold it, and nobody waits for it.
-- VOLATILE: what is read after the lock is read in a new snapshot.
CREATE OR REPLACE FUNCTION mailroom.action_fits(
    owner bigint, own bigint, of_action text, per_15_minutes integer, per_day integer
)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    lately bigint;
    today  bigint;
BEGIN
    PERFORM FROM accounts WHERE id = owner FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT count(DISTINCT token) FILTER (WHERE mailed_at > now() - interval '15 minutes'), count(DISTINCT token)
      INTO lately, today
      FROM (
           SELECT token, created_at
             FROM deliveries
            WHERE account = owner AND action = of_action AND limited
              AND created_at > now() - interval '1 day' AND created_at <= clock_timestamp()
            UNION ALL
           SELECT held.token, batches.claimed_at
             FROM batches
            CROSS JOIN LATERAL unnest(batches.tokens) AS held (token)
            WHERE batches.action = of_action AND batches.claimed_at <= clock_timestamp()
              AND owner = (SELECT account FROM tokens WHERE id = held.token)
           ) AS mailed (token, mailed_at)
     WHERE token <> own;
    RETURN (lately < per_15_minutes) IS NOT FALSE AND (today < per_day) IS NOT FALSE;
END $$;
