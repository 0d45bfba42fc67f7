-- See which of these triggers there are on the tables that this search_path finds, whether they fire, and whether each
-- calls the function of its name.
--
-- Binds: triggers (an array of names).
SELECT tgname AS name, tgenabled IN ('O', 'A') AS enabled, proname = tgname AS calls_its_function
  FROM pg_trigger
  JOIN pg_proc ON pg_proc.oid = tgfoid
 WHERE tgrelid IN ('accounts'::regclass, 'tokens'::regclass) AND NOT tgisinternal
   AND tgname = ANY (CAST(:triggers AS name[]))
