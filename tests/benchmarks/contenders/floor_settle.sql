-- The least that a settlement can do: close the batch, and if it was there, log what became of its mails.
WITH closed AS (
    DELETE FROM batches WHERE id = %(batch)s RETURNING id
)
INSERT INTO deliveries (token, account, batch, action, outcome, attempt, message_id)
SELECT result.token, result.account, closed.id, 'activation', 'sent', 0, result.message_id
  FROM closed
 CROSS JOIN unnest(%(tokens)s::bigint[], %(accounts)s::bigint[], %(message_ids)s::text[])
            AS result (token, account, message_id)
