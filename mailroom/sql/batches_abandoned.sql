-- See the batches that this sender has in flight and does not know: their claim was given up before its answer came, and
-- was made all the same. Nobody has sent them.
--
-- Binds: worker (a name that no other sender ever had), known (fences, an array).
--
-- Returns what settle needs to give each back: id, fence, action, priority, and when its oldest job was due.
--
-- Locks: nothing.
SELECT id, fence, action, priority, due_at
  FROM batches
 WHERE worker = :worker AND fence <> ALL (CAST(:known AS uuid[]))
