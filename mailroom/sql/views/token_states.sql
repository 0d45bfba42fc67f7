-- Tokens, without what they are worth: no secret, no code.
CREATE OR REPLACE VIEW mailroom.token_states AS
SELECT id, CAST(action AS text) AS action, account, created_at, expires_at, consumed_at
  FROM tokens;
