-- The rate of the fleet: how many permits were ever granted, and what is left of the rate after SES throttled.
CREATE OR REPLACE VIEW mailroom.permit_buckets AS
SELECT bucket, granted, slowdown, throttled_at, level, filled_at
  FROM permits;
