-- What SES said of its account, and when it was asked. granted_before: how many permits had been granted until then.
CREATE OR REPLACE VIEW mailroom.account_limits AS
SELECT fetched_at, max_send_rate, max_24_hour_send, sent_last_24_hours, granted_before, sending_enabled,
       production_access, enforcement
  FROM ses_account;
