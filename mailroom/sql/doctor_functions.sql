-- See which of these functions there are beside the tables, and whether all of that name look for tables in that schema
-- and only then among the temporary ones.
--
-- Binds: functions (an array of names).
--
-- Returns a row for each: its name, whether it is pinned, and the search_path that it should have.
SELECT proname AS name, home.path,
       bool_and(EXISTS (SELECT FROM unnest(proconfig) AS setting WHERE setting = 'search_path=' || home.path)) AS pinned
  FROM pg_proc
  JOIN (SELECT relnamespace AS id, quote_ident(nspname) || ', pg_temp' AS path
          FROM pg_class
          JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE pg_class.oid = 'tokens'::regclass) AS home ON home.id = pronamespace
 WHERE proname = ANY (CAST(:functions AS name[]))
 GROUP BY proname, home.path
