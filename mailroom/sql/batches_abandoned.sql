-- See the batches that this sender has in flight and does not know of.
--
-- Their claim was given up before its answer came, and was made all the same. Nobody has sent their mails.
--
-- Arguments: worker (a name that no other sender ever had), known (fences, an array).
--
-- Returns what settle needs to give each back: id, fence, action, priority, and when its oldest job was due.
--
-- Locks: nothing.
CREATE OR REPLACE FUNCTION mailroom.batches_abandoned(
    worker text, known uuid[]
)
    RETURNS TABLE (
        id bigint, fence uuid, action text, priority smallint, due_at timestamptz
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT id, fence, CAST(action AS text), priority, due_at
      FROM batches
     WHERE worker = batches_abandoned.worker AND fence <> ALL (batches_abandoned.known);
END $$;
