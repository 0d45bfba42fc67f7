-- Say how many guesses at its code a token stands.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.most_guesses()
    RETURNS integer
    LANGUAGE plpgsql IMMUTABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN 5;
END $$;
