-- What became of mails, by the minute.
--
-- `waits` counts the mails that were called, by how long they had been due when they were claimed: see WAIT_BOUNDS in
-- ops/minutes.py.
CREATE OR REPLACE VIEW mailroom.minute_counts AS
SELECT at, queue, priority, action, outcome, code, mails, waits
  FROM minutes;
