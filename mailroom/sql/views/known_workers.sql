-- Each process that sends, when it was last seen, and how many of its senders had jobs then.
CREATE OR REPLACE VIEW mailroom.known_workers AS
SELECT name, queue, version, started_at, seen_at, senders, busy, listening, feeding
  FROM workers;
