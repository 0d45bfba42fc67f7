-- Show mails of which nobody knew whether SES took them, the newest first, and what became of each.
--
-- Arguments: since (a moment); before_at and before_id (where the page before ended; NULL: the end); most (how many).
--
-- Returns a row for each such attempt: its id, token, account, action, moment and code; whether its own call was accepted
-- after all, whether SES says that the mail was never out, whether another batch was accepted later, and where the job is:
-- waiting, held, in flight, or nowhere (NULL).
--
-- Locks: nothing.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would look for a job by another
-- index. This one reads a stretch of the index of what is unconfirmed, sorted only among those of one moment, and a few
-- rows by key for each. There are few batches.
CREATE OR REPLACE FUNCTION mailroom.browse_unconfirmed(
    since timestamptz, before_at timestamptz, before_id bigint, most integer
)
    RETURNS TABLE (
        id bigint, token bigint, account bigint, action text, at timestamptz, code text, accepted boolean, contradicted
        boolean, sent_again boolean, place text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET enable_memoize = off SET enable_sort = off AS $$
#variable_conflict use_column
<<variables>>
DECLARE
    ends_at timestamptz := coalesce(browse_unconfirmed.before_at, 'infinity');
BEGIN
    RETURN QUERY
    SELECT page.id, page.token, page.account, CAST(page.action AS text), page.created_at, page.error_code,
           coalesce(sent.same, false), coalesce(told.never, false), coalesce(sent.other, false),
           CASE WHEN job.due_at = 'infinity' THEN 'held' WHEN job.due_at IS NOT NULL THEN 'waiting'
                WHEN EXISTS (SELECT FROM batches WHERE page.token = ANY (tokens)) THEN 'in flight' END
      FROM (SELECT id, token, account, action, created_at, error_code, fence
              FROM deliveries
             WHERE coalesce(outcome = 'unconfirmed', false) AND created_at >= browse_unconfirmed.since AND created_at <= variables.ends_at
               AND (browse_unconfirmed.before_at IS NULL OR created_at < variables.ends_at OR id < browse_unconfirmed.before_id)
             ORDER BY created_at DESC, id DESC
             LIMIT browse_unconfirmed.most) AS page
      LEFT JOIN LATERAL (SELECT due_at FROM jobs WHERE jobs.token = page.token LIMIT 1) AS job ON true
     CROSS JOIN LATERAL (
           SELECT bool_or(fence = page.fence AND NOT never_out(message_id)) AS same,
                  bool_or(fence IS DISTINCT FROM page.fence AND id > page.id AND error_code IS NULL) AS other
             FROM deliveries
            WHERE deliveries.token = page.token AND outcome = 'sent') AS sent
     CROSS JOIN LATERAL (
           SELECT bool_or(kind IN ('reject', 'rendering_failure')) AS never
             FROM events
            WHERE events.token = page.token AND events.fence = page.fence) AS told
     ORDER BY page.created_at DESC, page.id DESC;
END $$;
