-- See which of these functions there are beside the tables, and whether all of that name have a search_path of their own.
--
-- Binds: functions (an array of names).
SELECT proname AS name,
       bool_and(EXISTS (SELECT FROM unnest(proconfig) AS setting WHERE setting LIKE 'search_path=%')) AS pinned
  FROM pg_proc
 WHERE pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'tokens'::regclass)
   AND proname = ANY (CAST(:functions AS name[]))
 GROUP BY proname
