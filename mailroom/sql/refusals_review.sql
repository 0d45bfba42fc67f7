-- Review refusals of some mails of one action by what SES answered for the action lately, to all processes.
--
-- Arguments: action; codes (with which SES refuses a mail for its own sake); tokens and accounts (of the mails that were
-- refused now, and whose refusals are not on record yet; may be empty); and how far back the log is read: lately (an
-- interval), reach (rows of all actions) and most (answers for this one), whichever comes first.
--
-- A row is a run of different accounts that were refused, one after the other, with no mail accepted between. What was
-- refused in one call with a mail that was accepted is in none: SES took the template and the configuration. A mail is
-- counted in the first row that it was in, and never again: tried again after another was accepted, and refused again,
-- it only shows that it is bad.
--
-- Returns one row: unbroken, the length of the row that is not over, with the given ones; survived, that of the longest
-- row that an acceptance ended; bad, those of the given tokens that were refused before another mail was accepted; and
-- tried, those that were refused before at all.
--
-- Locks nothing. It walks the log from its newest row backwards, by its primary key.
--
-- Plan: made for each call. A plan that was made on nearly empty tables, and then kept, would read whole tables.
CREATE OR REPLACE FUNCTION mailroom.refusals_review(
    action text, codes text[], tokens bigint[], accounts bigint[], lately interval, reach bigint, most integer
)
    RETURNS TABLE (
        unbroken bigint, survived bigint, bad bigint[], tried bigint[]
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH answered AS MATERIALIZED (
        SELECT id, token, coalesce(account, -token) AS account,
               coalesce(CAST(fence AS text), CAST(id AS text)) AS call, outcome = 'sent' AS accepted
          FROM deliveries
         WHERE id > (SELECT max(id) FROM deliveries) - refusals_review.reach
           AND action = CAST(refusals_review.action AS token_action) AND created_at > now() - refusals_review.lately AND NOT late
           -- A mail that the claim found to be accepted long ago has a code, and says nothing of now.
           AND CASE outcome WHEN 'sent' THEN error_code IS NULL ELSE error_code = ANY (refusals_review.codes) END
         ORDER BY id DESC
         LIMIT refusals_review.most
    ),
    -- Each row by the number of acceptances after it.
    placed AS MATERIALIZED (
        SELECT *,
               count(*) FILTER (WHERE accepted) OVER (ORDER BY id DESC) AS row,
               bool_or(accepted) OVER (PARTITION BY call) AS beside_accepted
          FROM answered
    ),
    refused AS MATERIALIZED (
        SELECT token, account, max(row) AS row
          FROM placed
         WHERE NOT accepted AND NOT beside_accepted
         GROUP BY token, account
    ),
    given AS MATERIALIZED (
        SELECT one.token, one.account, min(earlier.id) AS refused_first
          FROM unnest(refusals_review.tokens, refusals_review.accounts) AS one (token, account)
          LEFT JOIN deliveries AS earlier
            ON earlier.token = one.token AND earlier.error_code = ANY (refusals_review.codes)
         GROUP BY one.token, one.account
    ),
    bad AS MATERIALIZED (
        SELECT token FROM given WHERE refused_first < (SELECT max(id) FROM answered WHERE accepted)
    )
    SELECT (SELECT count(DISTINCT account)
              FROM (SELECT account FROM refused WHERE row = 0
                    UNION ALL
                    SELECT account FROM given WHERE token NOT IN (SELECT token FROM bad)) AS doubtful) AS unbroken,
           (SELECT coalesce(max(accounts), 0)
              FROM (SELECT count(DISTINCT account) AS accounts FROM refused WHERE row > 0 GROUP BY row) AS ended) AS survived,
           ARRAY(SELECT token FROM bad) AS bad,
           ARRAY(SELECT token FROM given WHERE refused_first IS NOT NULL) AS tried;
END $$;
