-- Partition the history by month, for a history of a hundred million rows or more. Run it once, with the workers stopped.
--
-- First, while the workers still run, and outside of a transaction, do what would take long under the lock:
--     CREATE UNIQUE INDEX CONCURRENTLY deliveries_by_id ON mailroom.deliveries (id, created_at);
-- Then stop the workers: psql --single-transaction --variable ON_ERROR_STOP=1 --file docs/partition_deliveries.sql
-- Then run `mailroom migrate`, which recreates the views: until then they show the old table. Add the partition of each
-- new month in good time. (Rows without a partition go to deliveries_other; as long as they are there, the partition of
-- their month cannot be added.) See docs/scaling.md for dropping a month.
--
-- With another MAILROOM_SCHEMA, write its name in the index above and in the first line below.
--
-- It holds an exclusive lock on deliveries while it reads the old rows once, to prove that none is of a later month.
SET LOCAL search_path = mailroom, pg_temp;
LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE;
ALTER TABLE deliveries RENAME TO deliveries_before;
ALTER INDEX deliveries_token_idx RENAME TO deliveries_before_token_idx;
ALTER INDEX deliveries_created_at_idx RENAME TO deliveries_before_created_at_idx;
ALTER INDEX deliveries_limited_idx RENAME TO deliveries_before_limited_idx;
ALTER INDEX deliveries_accepted_late_idx RENAME TO deliveries_before_accepted_late_idx;
ALTER INDEX deliveries_unsent_idx RENAME TO deliveries_before_unsent_idx;
ALTER INDEX deliveries_unconfirmed_idx RENAME TO deliveries_before_unconfirmed_idx;

-- The identity moves to the new table, and the numbers go on where they were, since they are looked at in order. The
-- primary key of a partitioned table has to hold the column that it is partitioned by.
ALTER TABLE deliveries_before ALTER id DROP IDENTITY, DROP CONSTRAINT deliveries_pkey;
ALTER TABLE deliveries_before ADD CONSTRAINT deliveries_before_pkey PRIMARY KEY USING INDEX deliveries_by_id;
CREATE TABLE deliveries (LIKE deliveries_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (created_at);
ALTER TABLE deliveries ALTER id ADD GENERATED ALWAYS AS IDENTITY, ADD PRIMARY KEY (id, created_at);
SELECT setval(pg_get_serial_sequence('deliveries', 'id'), 1 + coalesce(max(id), 0), false) FROM deliveries_before;
CREATE INDEX deliveries_token_idx ON deliveries (token);
CREATE INDEX deliveries_created_at_idx ON deliveries USING brin (created_at) WITH (autosummarize = on);
CREATE INDEX deliveries_limited_idx ON deliveries (account, action, created_at) WHERE limited;
CREATE INDEX deliveries_accepted_late_idx ON deliveries (token) WHERE late AND outcome = 'sent';
CREATE INDEX deliveries_unsent_idx ON deliveries (created_at)
 WHERE outcome IN ('failed', 'rejected') AND NOT late AND retried_at IS NULL;
CREATE INDEX deliveries_unconfirmed_idx ON deliveries (created_at) WHERE coalesce(outcome = 'unconfirmed', false);

DO $$
DECLARE
    next_month timestamptz := date_trunc('month', now()) + interval '1 month';
    month timestamptz;
BEGIN
    EXECUTE format('ALTER TABLE deliveries ATTACH PARTITION deliveries_before FOR VALUES FROM (MINVALUE) TO (%L)',
                   next_month);
    FOR month IN SELECT generate_series(next_month, next_month + interval '11 months', interval '1 month') LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF deliveries FOR VALUES FROM (%L) TO (%L)',
                       'deliveries_' || to_char(month, 'YYYY_MM'), month, month + interval '1 month');
    END LOOP;
END
$$;
CREATE TABLE deliveries_other PARTITION OF deliveries DEFAULT;
