"""An evening as it may be: an import is on its way, recoveries come, and most are fine."""

from sqlalchemy import Connection, Engine, text

from mailroom.fleet import pauses
from tests.window import scene
from tests.world import add_accounts, ask_recovery

# A minute's recoveries and imported activations, for an hour; now and then one that was deferred, or not answered.
RECORD = """
WITH minutes AS (
    SELECT n, now() - n * interval '1 minute' AS at, n % 7 + n % 3 + 3 AS recoveries, 430 + n % 11 * 17 AS imported
      FROM generate_series(1, 60) AS n
),
mails AS (
    SELECT n, at + part * interval '300 milliseconds' AS at, part, 'password_recovery' AS action, 0 AS priority,
           interval '6 milliseconds' * (1 + part % 4) AS wait
      FROM minutes CROSS JOIN LATERAL generate_series(1, recoveries) AS part
     UNION ALL
    SELECT n, at + part * interval '90 milliseconds', part, 'activation', 2, interval '40 minutes' - n * interval '30 s'
      FROM minutes CROSS JOIN LATERAL generate_series(1, imported) AS part
     WHERE n < 48
)
INSERT INTO deliveries (token, account, batch, queue, priority, action, outcome, attempt, created_at, due_at,
                        claimed_at, call_ms, fence, error_code)
SELECT 1000000 + row_number() OVER (), 20000 + row_number() OVER (), n, 'mailroom', priority, action,
       CASE WHEN n % 17 = 3 AND part = 1 THEN 'unconfirmed' WHEN n % 13 = 5 AND part = 2 THEN 'rejected'
            WHEN n % 9 = 4 AND part < 40 THEN 'deferred' ELSE 'sent' END::delivery_outcome,
       0, at, at - wait - interval '80 milliseconds', at - interval '80 milliseconds', 74, gen_random_uuid(),
       CASE WHEN n % 17 = 3 AND part = 1 THEN 'ReadTimeoutError' WHEN n % 13 = 5 AND part = 2 THEN 'MessageRejected'
            WHEN n % 9 = 4 AND part < 40 THEN 'TooManyRequestsException' END
  FROM mails
"""
# Of some mails that nobody heard of an answer came late, some were sent again, and some were both.
AFTER = """
INSERT INTO deliveries (token, account, batch, fence, queue, priority, action, outcome, attempt, created_at, late,
                        message_id)
SELECT token, account, batch + again, CASE WHEN again = 0 THEN fence ELSE gen_random_uuid() END, queue, priority,
       action, 'sent', again, created_at + interval '31 s', again = 0, 'again' || token
  FROM (SELECT *, row_number() OVER (ORDER BY created_at) AS n FROM deliveries WHERE outcome = 'unconfirmed') AS unclear
       CROSS JOIN generate_series(0, 1) AS again
 WHERE (n % 4, again) IN ((1, 1), (2, 0), (3, 0), (3, 1))
"""
# The first try of a mail that waits: SES asked for patience.
TRIED = """
INSERT INTO deliveries (token, account, batch, queue, priority, action, outcome, attempt, error_code, due_at,
                        claimed_at, created_at, call_ms)
SELECT id, account, 61247, 'mailroom', 0, action, 'deferred', 0, 'TooManyRequestsException', at, at + interval '7 ms',
       at + interval '93 ms', 81
  FROM tokens CROSS JOIN (SELECT now() - interval '78 s' AS at) AS first
 WHERE id = :token
"""
ACCOUNT = """
UPDATE ses_account
   SET fetched_at = now() - interval '20 s', max_send_rate = 14, max_24_hour_send = 50000, sent_last_24_hours = 31250,
       granted_before = 31450, enforcement = 'HEALTHY'
"""
FEED = "UPDATE feed SET polled_at = now(), heard_at = now() - interval '4 s', added = 61240"
PERMITS = """
UPDATE permits SET granted = CASE bucket WHEN 'mails' THEN 31612 ELSE 1264 END, level = 9.4, filled_at = now()
"""
BOUNCES = """
INSERT INTO events (message_id, kind, at, token, type)
SELECT message_id, 'bounce', created_at, token, 'Permanent'
  FROM deliveries
 WHERE token % :one_of = 0 AND outcome = 'sent'
"""


def furnish(engine: Engine, *, one_bounced_of: int = 211) -> None:
    """Let the evening be so, with one mail bounced of so many."""
    with engine.connect() as connection:
        _import(connection)
        connection.execute(text(RECORD))
        connection.execute(text("UPDATE deliveries SET message_id = 'm' || token WHERE outcome = 'sent'"))
        connection.execute(text(AFTER))
        for name, mails in (("mallory", 412), ("trudy", 37), ("ben", 2)):
            scene.flood(connection, name, mails)
        for statement in (ACCOUNT, FEED, PERMITS):
            connection.execute(text(statement))
        connection.execute(text(BOUNCES), {"one_of": one_bounced_of})
        connection.execute(text("UPDATE readings SET minutes_until = now() - interval '70 minutes'"))
    for _ in range(6):  # an hour is made up for a quarter at a time
        go_on(engine)


def go_on(engine: Engine) -> None:
    """Let the workers be there, and all be counted, now: who looks at a page may need longer than they are silent."""
    with engine.connect() as connection:
        for name in ("mail-1/2214/7f3a90c1", "mail-2/1190/05be77d2"):
            scene.worker(connection, name, "0.2.0")
        connection.execute(text("UPDATE workers SET started_at = now() - interval '26 hours'"))
    scene.count(engine)


def stop(engine: Engine) -> list[int]:
    """Let AWS stop the account, while some wait for a recovery; return the tokens of these."""
    with engine.connect() as connection:
        accounts = add_accounts(connection, 12, status="active", prefix="late")
        tokens = [ask_recovery(connection, account) for account in accounts]
        connection.execute(text("UPDATE jobs SET due_at = now() - interval '70 s' WHERE priority = 0"))
        connection.execute(
            text("UPDATE tokens SET created_at = now() - interval '79 s' WHERE id = ANY (:t)"), {"t": tokens}
        )
        connection.execute(text("UPDATE jobs SET attempt = 1 WHERE token = :token"), {"token": tokens[0]})
        connection.execute(text(TRIED), {"token": tokens[0]})
        why = "Sending has been paused for this account."
        pauses.open_pause(connection, "account", code="SendingPausedException", reason=why)
        connection.execute(text("UPDATE pauses SET opened_at = now() - interval '80 s'"))
    go_on(engine)
    return tokens


def _import(connection: Connection) -> None:
    add_accounts(connection, 2_400, prefix="imported")
    connection.execute(
        text("UPDATE jobs SET priority = 2, due_at = now() - interval '25 min' + token * interval '0.1 s'")
    )
