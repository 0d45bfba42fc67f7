-- What SES told of mails. `at` is by its clock, absorbed_at by that of the database. No address, and no hash of one.
CREATE OR REPLACE VIEW mailroom.mail_events AS
SELECT token, message_id, CAST(kind AS text) AS kind, at, type, subtype, status, absorbed_at
  FROM events
 WHERE kind <> 'accepted';
