-- How many pages jobs has, and the moment before which no job is still about to commit, by slack (an interval).
SELECT pg_relation_size('jobs') / current_setting('block_size')::bigint AS pages, now() - :slack AS moment
