-- Pause what is not urgent while too many mails bounce, or are complained of: before AWS stops the whole account.
--
-- Arguments: a row for each scope, in arrays: scopes; bounce_lines and complaint_lines (shares of the mails, from which on
-- the scope is paused); min_mails (with fewer mails nothing is said: one bounce of ten proves nothing); and silence, as
-- feed_state has it.
--
-- Each of the two periods of reputation counts. After a person has ended the pause of a scope, only later mails do. A
-- single complaint pauses nothing. The pause ends when the shares are below the lines again, or when a person ends it;
-- one that a person has made is left alone. While nothing is heard of mails that went out nobody knows the shares, and
-- none ends.
--
-- Returns a row for each pause that began or ended: its scope, code and reason, and whether it began.
--
-- Locks: resumptions of the future, skipping what others hold; then pauses in the order of the scopes, waiting for who
-- holds them.
CREATE OR REPLACE FUNCTION mailroom.reputation_review(
    scopes text[], bounce_lines numeric[], complaint_lines numeric[], min_mails integer,
    silence interval DEFAULT '10 minutes'
)
    RETURNS TABLE (
        scope text, code text, reason text, began boolean
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off SET enable_bitmapscan = off SET join_collapse_limit = 1 AS $$
#variable_conflict use_column
DECLARE
    worst     record;
    is_silent boolean;
BEGIN
    IF (SELECT polled_at FROM feed) IS NULL THEN  -- nobody hears of a bounce
        RETURN;
    END IF;
    is_silent := (SELECT silent FROM feed_state(reputation_review.silence));
    UPDATE resumptions SET resumed_at = clock_timestamp()  -- it lies ahead: the clock was set back
     WHERE resumptions.scope = ANY (ARRAY(
           SELECT later.scope FROM resumptions AS later WHERE resumed_at > clock_timestamp() FOR UPDATE SKIP LOCKED));
    FOR worst IN
        WITH line AS MATERIALIZED (
            SELECT given.scope, given.bounce_line, given.complaint_line, resumptions.resumed_at
              FROM unnest(reputation_review.scopes, reputation_review.bounce_lines, reputation_review.complaint_lines)
                   AS given (scope, bounce_line, complaint_line)
              LEFT JOIN resumptions ON resumptions.scope = given.scope
        ),
        counted AS MATERIALIZED (
            SELECT since.resumed_at, found.period, found.mails, found.bounces, found.complaints
              FROM (SELECT DISTINCT resumed_at FROM line) AS since
             CROSS JOIN LATERAL reputation(since.resumed_at) AS found
             WHERE found.mails >= reputation_review.min_mails
        )
        SELECT line.scope, line.resumed_at,
               EXISTS (SELECT FROM counted WHERE counted.resumed_at IS NOT DISTINCT FROM line.resumed_at) AS is_known,
               over.period, over.mails, over.bounces, over.complaints, over.bounced
          FROM line
          LEFT JOIN LATERAL (
               SELECT counted.*, bounces >= bounce_line * mails AS bounced
                 FROM counted
                WHERE counted.resumed_at IS NOT DISTINCT FROM line.resumed_at
                  AND (bounces >= bounce_line * mails OR (complaints > 1 AND complaints >= complaint_line * mails))
                ORDER BY bounced DESC, period DESC
                LIMIT 1) AS over ON true
         ORDER BY line.scope
    LOOP
        CONTINUE WHEN worst.period IS NULL AND (is_silent OR NOT worst.is_known);  -- no rate is not a rate that is back
        IF worst.period IS NULL THEN
            RETURN QUERY
            DELETE FROM pauses
             WHERE pauses.scope = worst.scope AND pauses.code IN ('BounceRate', 'ComplaintRate')
            RETURNING pauses.scope, pauses.code, pauses.reason, false;
        ELSE
            RETURN QUERY
            INSERT INTO pauses (scope, code, reason)
            SELECT worst.scope, CASE WHEN worst.bounced THEN 'BounceRate' ELSE 'ComplaintRate' END,
                   format(
                       CASE WHEN worst.bounced
                            THEN '%s %% of %s mails %s bounced for good: AWS reviews an account at 5 %%, and may stop it at 10 %%'
                            ELSE '%s %% of %s mails %s were complained of: AWS reviews an account at 0.1 %%, and may stop it at 0.5 %%'
                       END,
                       round(100.0 * CASE WHEN worst.bounced THEN worst.bounces ELSE worst.complaints END / worst.mails, 2),
                       worst.mails,
                       CASE worst.period WHEN 'day' THEN 'of the last 24 hours' ELSE '(the newest)' END)
             WHERE NOT EXISTS (
                   SELECT FROM resumptions
                    WHERE resumptions.scope = worst.scope AND resumed_at IS DISTINCT FROM worst.resumed_at)
            ON CONFLICT (scope) DO NOTHING
            RETURNING pauses.scope, pauses.code, pauses.reason, true;
        END IF;
    END LOOP;
END $$;
