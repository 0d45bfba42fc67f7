-- Tokens, without what they are worth: no secret, no code.
CREATE OR REPLACE VIEW mailroom.token_states AS
SELECT id, action, account, created_at, expires_at, consumed_at
  FROM tokens;
