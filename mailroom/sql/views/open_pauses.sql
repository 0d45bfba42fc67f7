-- What is paused for the whole fleet. Without probe_at it ends by hand alone.
CREATE OR REPLACE VIEW mailroom.open_pauses AS
SELECT scope, code, reason, opened_at, probe_at, probes
  FROM pauses;
