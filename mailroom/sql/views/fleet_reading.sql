-- What one process of the fleet counted for all of them, and when.
--
-- `found` is NULL until somebody has counted. failed_at and failure are of the last try since then, if it failed.
CREATE OR REPLACE VIEW mailroom.fleet_reading AS
SELECT read_at, found, failed_at, failure, due_at, minutes_until
  FROM readings;
