-- Keep what SES said of the account.
--
-- Arguments: max_send_rate (mails a second), max_24_hour_send and sent_last_24_hours (mails; -1 is no limit);
-- granted_before (how many permits had been granted when SES was asked); sending_enabled, production_access and
-- enforcement, as SES has them.
--
-- Locks: the account.
CREATE OR REPLACE FUNCTION mailroom.account_store(
    max_send_rate double precision, max_24_hour_send double precision, sent_last_24_hours double precision,
    granted_before bigint, sending_enabled boolean, production_access boolean, enforcement text
)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    UPDATE ses_account
       SET fetched_at = clock_timestamp(),
           max_send_rate = account_store.max_send_rate,
           max_24_hour_send = account_store.max_24_hour_send,
           sent_last_24_hours = account_store.sent_last_24_hours,
           granted_before = account_store.granted_before,
           sending_enabled = account_store.sending_enabled,
           production_access = account_store.production_access,
           enforcement = account_store.enforcement;
END $$;
