-- Take the right to try, with one mail, whether a pause can end.
--
-- Arguments: first_wait and max_wait (intervals); max_refusal_wait, which counts where the pause has one of the
-- codes in refusals; queue, priorities and actions, as for claim; floors_due_at and floors_token, of each of these lanes,
-- as for look (NULL: it is looked at from its beginning, over all that is dead there).
--
-- Only where there is a job of the queue to try it with: whoever has none must not put off those who have.
-- The next try is set at once, later and later: whoever tries and finds the fault still there, or dies, need do nothing.
-- Where mails are refused it is set sooner: as long as there are others to try it with, they may be bad, and not what is
-- paused.
-- Returns the scope to try, or no row if none is due.
--
-- Locks: the pause, skipping one that another is taking.
CREATE OR REPLACE FUNCTION mailroom.pause_probe(
    first_wait interval, max_wait interval, max_refusal_wait interval, refusals text[], queue text, priorities
    smallint[], actions text[], floors_due_at timestamptz[] DEFAULT NULL, floors_token bigint[] DEFAULT NULL
)
    RETURNS TABLE (
        scope text
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE pauses
       SET probes = least(probes, 2147483646) + 1,
           probe_at = clock_timestamp()
                    + CASE WHEN code = ANY (pause_probe.refusals)
                           THEN least(pause_probe.first_wait * (least(probes, 1000) + 1), pause_probe.max_refusal_wait)
                           ELSE least(pause_probe.first_wait * power(2, least(probes, 15) + 1), pause_probe.max_wait)
                      END
     WHERE scope = (
           SELECT scope
             FROM pauses
            WHERE probe_at <= now()
              AND EXISTS (
                  SELECT
                    FROM unnest(pause_probe.priorities, CAST(pause_probe.actions AS token_action[]),
                                pause_probe.floors_due_at, pause_probe.floors_token)
                         AS lane (priority, action, floor_due_at, floor_token)
                   CROSS JOIN LATERAL (
                         SELECT FROM jobs
                          WHERE queue = pause_probe.queue AND priority = lane.priority AND action = lane.action AND due_at <= now()
                            AND (due_at, token) > (coalesce(lane.floor_due_at, '-infinity'), coalesce(lane.floor_token, 0))
                          ORDER BY due_at, token LIMIT 1) AS due
                   WHERE (CAST(lane.action AS text) = pauses.scope
                          OR pauses.scope IN ('account', 'configuration_set',
                                              sender_scope(CAST(lane.action AS text))))
                     AND NOT EXISTS (
                         SELECT FROM pauses AS by_hand
                          WHERE by_hand.probe_at IS NULL
                            AND by_hand.scope IN ('account', 'configuration_set', CAST(lane.action AS text),
                                                  sender_scope(CAST(lane.action AS text)),
                                                  'queue:' || pause_probe.queue,
                                                  lane_scope(lane.priority, lane.action))))
            ORDER BY probe_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING scope;
END $$;
