-- See the first job of each lane of a queue among those that lie in some pages of the table, and are due by a moment.
--
-- Binds: queue, first and last (tids: from here, to before there), moment.
--
-- For where a walk along the claim index takes too long, since nearly all of what it passes is dead: so much of it as
-- lies in a page can always be looked at.
--
-- Returns a row for each lane with a job: priority, action, due_at and token.
--
-- Locks: nothing. Plan: by place. No index is to serve: hence the operator on queue.
SELECT DISTINCT ON (priority, action) priority, action, due_at, token
  FROM jobs
 WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:last AS tid)
   AND queue || '' = :queue AND due_at <= :moment
 ORDER BY priority, action, due_at, token
