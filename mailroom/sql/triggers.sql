-- See which of these triggers there are on the tables that this search_path finds, and whether they fire.
--
-- Binds: triggers (an array of names).
SELECT tgname AS name, tgenabled IN ('O', 'A') AS enabled
  FROM pg_trigger
 WHERE tgrelid IN ('accounts'::regclass, 'tokens'::regclass) AND NOT tgisinternal
   AND tgname = ANY (CAST(:triggers AS name[]))
