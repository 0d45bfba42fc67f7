"""A database in which much has happened, with words in it that would like to be obeyed."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from mailroom import queue
from mailroom.db import functions
from mailroom.fleet import pauses
from mailroom.ops import refresh
from mailroom.outcome import Deferred, Outcome, Rejected, Sent, Unconfirmed
from mailroom.queue.verdict import judge
from tests.claiming import take, waited
from tests.world import add_accounts, ask_recovery

# What a page must show, and must not do.
OWNED = "window.owned=1"
CANARY = f"""'"><img src=x onerror={OWNED}><script>{OWNED}</script>{{{{7*7}}}}"""
# A name of a queue has no blanks, and 63 characters at most.
QUEUE = f"""q'"><img/src=x/onerror={OWNED}></title>"""
LOGIN, EMAIL = f"login{CANARY}", "canary@canary.example"

# What SES told of a mail, in words that it did not choose alone.
EVENT = """
INSERT INTO events (message_id, kind, at, token, type, subtype, status)
VALUES (:message, CAST(:kind AS event_kind), now(), :token, :type, :subtype, :status)
"""
# The answer to a call that was given up: it came, and the mail was out.
ANSWER = """
INSERT INTO deliveries (token, account, batch, fence, action, outcome, attempt, late)
SELECT token, account, batch, fence, action, 'sent', attempt, true
  FROM deliveries
 WHERE token = :token AND outcome = 'unconfirmed'
"""
# Somebody asks in another's name for one mail after the other.
FLOOD = """
INSERT INTO deliveries (token, account, batch, action, outcome, attempt, error_code, created_at)
SELECT NULL, :account, 7, 'password_recovery', 'cancelled', 0, 'TooMany', now() - n * interval '50 min' / :mails
  FROM generate_series(1, :mails) AS n
"""


def furnish(engine: Engine) -> dict[str, int]:
    """Let mails be sent, held, refused and paused, and have it counted; return tokens by what became of them."""
    with engine.connect() as connection:
        tokens = _mails(connection)
        _events(connection, tokens)
        _words(connection)
        pauses.open_pause(connection, "priority:2", code=pauses.BY_HAND, reason=f"reason{CANARY}", probed=False)
        pauses.open_pause(connection, "identity", code=f"Code{CANARY}", reason=f"prose{CANARY}")
        worker(connection, f"host{CANARY}/1/2", f"v{CANARY}")
    count(engine)
    return tokens


def count(engine: Engine) -> None:
    """Have it counted now, whenever it was counted last."""
    with engine.connect() as connection:
        connection.execute(text("UPDATE readings SET due_at = '-infinity'"))
    assert refresh.refresh(engine) is not None


def _mails(connection: Connection) -> dict[str, int]:
    found = {}
    outcomes: dict[str, Outcome] = {
        "sent": Sent(f"id{CANARY}"),
        "unconfirmed": Unconfirmed("ReadTimeoutError", f"prose{CANARY}"),
        "rejected": Rejected("MessageRejected", f"prose{CANARY}"),
        "deferred": Deferred("Throttling", f"prose{CANARY}", charged=True),
        "delivered": Sent("delivered"),
        "bounced": Sent("bounced"),
    }
    for name, outcome in outcomes.items():
        found[name] = _sign_up(connection, name)
        _settle(connection, outcome)
    found["again"], found["twice"] = _sent_again(connection, "again"), _sent_again(connection, "twice")
    connection.execute(text(ANSWER), {"token": found["twice"]})
    found["held"] = _sign_up(connection, "held")
    _settle(connection, Unconfirmed("ReadTimeoutError", "no answer"))
    connection.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE token = :token"), {"token": found["held"]})
    found["flight"] = _sign_up(connection, "flight")
    take(connection, batch_limit=1)
    found["waiting"], found["elsewhere"] = _sign_up(connection, "waiting"), _sign_up(connection, "elsewhere")
    connection.execute(
        text("UPDATE jobs SET queue = :queue WHERE token = :token"), {"queue": QUEUE, "token": found["elsewhere"]}
    )
    [account] = add_accounts(connection, 1, status="active", prefix="known")
    found["recovery"] = ask_recovery(connection, account)
    return found


def _sign_up(connection: Connection, prefix: str) -> int:
    """Add an account; return the token of its activation, which has been due for a minute."""
    [account] = add_accounts(connection, 1, prefix=prefix)
    token: int = connection.scalar(text("SELECT id FROM tokens WHERE account = :account"), {"account": account})
    waited(connection, token=token)
    return token


def _settle(connection: Connection, outcome: Outcome) -> None:
    batch = take(connection)
    verdicts = [judge(outcome, attempt=job.attempt, jitter=0) for job in batch.jobs]
    queue.settle(connection, [(batch, verdicts)])
    # What comes again is not in the way of the next one.
    tokens = [job.token for job in batch.jobs]
    connection.execute(text("UPDATE jobs SET due_at = now() + '1 h' WHERE token = ANY (:tokens)"), {"tokens": tokens})


def _sent_again(connection: Connection, prefix: str) -> int:
    """Let a mail be sent again, of which nobody had heard."""
    token = _sign_up(connection, prefix)
    _settle(connection, Unconfirmed("ReadTimeoutError", "no answer"))
    waited(connection, token=token)
    _settle(connection, Sent(prefix))
    return token


def _events(connection: Connection, tokens: dict[str, int]) -> None:
    for name, kind, said in (("delivered", "delivery", ""), ("bounced", "bounce", f"word{CANARY}")):
        words = {"type": said, "subtype": said, "status": said}
        connection.execute(text(EVENT), {"message": name, "kind": kind, "token": tokens[name]} | words)


def flood(connection: Connection, prefix: str, mails: int) -> int:
    """Let so many mails of an account not be sent, for it had as many as it may; return the account."""
    [account] = add_accounts(connection, 1, status="active", prefix=prefix)
    connection.execute(text(FLOOD), {"account": account, "mails": mails})
    return account


def _words(connection: Connection) -> None:
    connection.execute(
        text("INSERT INTO accounts (email, login, status) VALUES (:email, :login, 'active')"),
        {"email": EMAIL, "login": LOGIN},
    )


def worker(connection: Connection, name: str, version: str) -> None:
    functions.call(
        connection,
        "worker_seen",
        {
            "name": name,
            "queue": "mailroom",
            "version": version,
            "senders": 4,
            "busy": 1,
            "listening": True,
            "feeding": False,
            "forget_after": timedelta(days=1),
        },
    )


def many(connection: Connection, jobs: int) -> Sequence[int]:
    """Let so many people sign up, whose mails are held."""
    accounts = add_accounts(connection, jobs, prefix="many")
    connection.execute(text("UPDATE jobs SET due_at = 'infinity' WHERE action = 'activation'"))
    return accounts
