-- Trigger: make a job for each token of a statement, and wake a worker if one may be asleep that should not be.
--
-- A job has the priority of its action. A statement that makes more than 50 of priority 1 makes bulk, and so does one under
-- `mailroom.bulk`. The queue is that of `mailroom.queue`. Jobs are due from the moment of the trigger, not of the
-- transaction: closer to the order in which they commit.
--
-- A commit that notifies takes a lock of the whole cluster until it is flushed, so a statement notifies always for urgent
-- jobs, for normal ones when no other due job waits (a worker that is busy looks again by itself), never for bulk. The look
-- for such a job reaches back one second only: under an old snapshot a longer one would walk over every job done since.
-- Misjudged, it costs a notification or a sweep interval. Where the snapshot is the transaction's it sees what was once,
-- and at SERIALIZABLE whoever reads the queue conflicts with everybody who adds to it: there nothing is looked at, and the
-- statement notifies.
--
-- A job of that number may be there, of a token that is gone, where ids come again: its place is taken. That is seldom:
-- ON CONFLICT writes more for each row, and a look at the range of the new ids costs little. It asks in the order of the
-- ids: a plan that is made while `jobs` is empty would else take any index, and read all of it ever after.
CREATE OR REPLACE FUNCTION mailroom.enqueue_jobs()
    RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
<<var>>
DECLARE
    enqueued_at timestamptz := clock_timestamp();
    to_queue    text := coalesce(nullif(current_setting('mailroom.queue', true), ''), 'mailroom');
    notifies    boolean := coalesce(nullif(current_setting('mailroom.notify', true), ''), 'on')::boolean;
    bulk        boolean := coalesce(nullif(current_setting('mailroom.bulk', true), ''), 'off')::boolean;
    channel     text;
    may_look    boolean := current_setting('transaction_isolation') IN ('read committed', 'read uncommitted');
    total       bigint;
    lowest      bigint;
    highest     bigint;
    first       text;
    last        text;
    level       smallint;  -- the most urgent
    normal      bigint;
    unknown     text;
    wakes       text;
    last_job    bigint;
    recent      boolean;
    taken       boolean := true;
    waits       boolean := false;
BEGIN
    IF NOT coalesce(nullif(current_setting('mailroom.triggers', true), ''), 'on')::boolean THEN
        RETURN NULL;
    END IF;
    SELECT count(*), min(id), max(id), min(action), max(action) INTO total, lowest, highest, first, last FROM added;
    IF total = 0 THEN
        RETURN NULL;
    END IF;
    IF first = last THEN  -- as nearly always
        SELECT priority, CASE priority WHEN 1 THEN var.total ELSE 0 END INTO level, normal FROM actions WHERE name = var.first;
        IF NOT FOUND THEN
            unknown := first;
        END IF;
    ELSE
        SELECT min(actions.priority), count(*) FILTER (WHERE actions.priority = 1),
               min(added.action) FILTER (WHERE actions.name IS NULL)
          INTO level, normal, unknown
          FROM added
          LEFT JOIN actions ON actions.name = added.action;
    END IF;
    IF unknown IS NOT NULL THEN
        RAISE foreign_key_violation USING MESSAGE = format('there is no action %s', unknown);
    END IF;
    bulk := bulk OR normal > 50;

    IF level = 0 THEN
        wakes := '0';
    ELSIF normal > 0 AND NOT bulk THEN
        wakes := '1';
    END IF;
    -- Where any waits, the last job before these nearly always does, and is found at little cost. The look at all lanes is
    -- a part of its own: what is not executed is made ready all the same.
    IF may_look THEN
        SELECT token, queue = var.to_queue AND due_at BETWEEN var.enqueued_at - interval '1 second' AND var.enqueued_at
          INTO last_job, recent
          FROM jobs
         WHERE token BETWEEN CASE WHEN var.lowest > 0 THEN var.lowest - 100 ELSE var.lowest END AND var.highest
         ORDER BY token DESC
         LIMIT 1;
        taken := coalesce(last_job >= lowest, false);
        IF wakes = '1' AND recent THEN
            waits := true;
        ELSIF wakes = '1' AND notifies THEN
            waits := EXISTS (
                SELECT FROM actions AS lane, generate_series(0, 2) AS priority,
                    LATERAL (
                        SELECT FROM jobs
                         WHERE jobs.queue = var.to_queue AND jobs.priority = priority.priority
                           AND jobs.action = lane.name
                           AND jobs.due_at BETWEEN var.enqueued_at - interval '1 second' AND var.enqueued_at
                         LIMIT 1
                    ) AS waiting);
        END IF;
    END IF;
    IF first = last AND NOT taken THEN
        INSERT INTO jobs (token, due_at, action, priority, queue)
        SELECT id, var.enqueued_at, var.first, CASE WHEN var.bulk AND var.level = 1 THEN 2 ELSE var.level END, var.to_queue
          FROM added;
    ELSE
        INSERT INTO jobs (token, due_at, action, priority, queue)
        SELECT added.id, var.enqueued_at, added.action,
               CASE WHEN var.bulk AND actions.priority = 1 THEN 2 ELSE actions.priority END, var.to_queue
          FROM added
          JOIN actions ON actions.name = added.action
        ON CONFLICT (token) DO UPDATE
           SET due_at = excluded.due_at, action = excluded.action, priority = excluded.priority,
               attempt = excluded.attempt, queue = excluded.queue;
    END IF;

    IF notifies AND wakes IS NOT NULL AND NOT waits THEN
        channel := coalesce(nullif(current_setting('mailroom.channel', true), ''), 'token_insert');
        -- PostgreSQL refuses a longer name, and nobody can listen to it: a hint must not fail what it is a hint of.
        IF octet_length(channel) < 64 THEN
            PERFORM pg_notify(channel, wakes);
        END IF;
    END IF;
    RETURN NULL;
END $$;
