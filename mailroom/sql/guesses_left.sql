-- See how many guesses at its code a token has left.
--
-- Returns NULL if there is no such token with a code, or it cannot be consumed.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.guesses_left(
    wanted_secret bytea
)
    RETURNS integer
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
<<var>>
DECLARE
    good bigint := (
        SELECT good_token(guesses_left.wanted_secret, actions.name)
          FROM tokens JOIN actions ON actions.name = tokens.action
         WHERE tokens.secret = guesses_left.wanted_secret AND actions.has_code
    );
BEGIN
    IF good IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN most_guesses() - coalesce((SELECT made FROM guesses WHERE token = var.good), 0);
END $$;
