"""Mails that are out, and what SES tells of them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from mailroom.event import Event, EventKind
from mailroom.job import Batch
from mailroom.outcome import Sent
from mailroom.queue import events
from mailroom.queue.events import Absorbed
from tests.claiming import settle, take, waited
from tests.world import rows

HARD: dict[str, Any] = {"type": "Permanent", "subtype": "General", "status": "5.1.1"}
SOFT: dict[str, Any] = {"type": "Transient", "subtype": "MailboxFull", "status": "4.2.2"}

NOW = datetime.now(UTC).replace(microsecond=0)
SEND, DELIVERY, BOUNCE, COMPLAINT = EventKind.SEND, EventKind.DELIVERY, EventKind.BOUNCE, EventKind.COMPLAINT
REJECT, RENDERING_FAILURE, DELAY = EventKind.REJECT, EventKind.RENDERING_FAILURE, EventKind.DELIVERY_DELAY

# A kind of event, with its type and subtype.
BOUNCED = ("bounce", "Permanent", "General")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail that SES accepted, with the tags that it has."""

    token: int
    fence: UUID
    message_id: str
    address: str


def mail(connection: Connection, token: int, message_id: str) -> Mail:
    """Claim the one job that waits, and let SES have accepted it."""
    batch = take(connection, job_limit=1)
    [job] = batch.jobs
    assert job.token == token
    assert settle(connection, batch, Sent(message_id))
    return Mail(token, batch.fence, message_id, job.email)


def ask(connection: Connection, account: int, address: str | None = None) -> int:
    """Ask for one more activation, to the account's own address or another; return the token."""
    token: int = connection.execute(
        text("INSERT INTO tokens (action, account, address) VALUES ('activation', :account, :address) RETURNING id"),
        {"account": account, "address": address},
    ).scalar_one()
    waited(connection)
    return token


def sign_up(connection: Connection, email: str, *, status: str = "provisioned") -> int:
    """Add an account that gets no mail yet; return it."""
    account: int = connection.execute(
        text("SELECT add_account(:email, 'somebody', :status, mails => false)"),
        {"email": email, "status": status},
    ).scalar_one()
    return account


def moment(minutes: float, since: datetime | None = None) -> datetime:
    """So many minutes before now, or after `since`."""
    return datetime.now(UTC) - timedelta(minutes=minutes) if since is None else since + timedelta(minutes=minutes)


def event(mail: Mail, kind: EventKind, at: datetime, **told: Any) -> Event:
    """What SES tells of a mail: where it went as SES writes it, and not as a report has it."""
    tags: dict[str, Any] = {"token": mail.token, "fence": mail.fence, "address": mail.address}
    return Event(kind, mail.message_id, at, **tags | told)


def tell(connection: Connection, mail: Mail, kind: EventKind, at: datetime, **told: Any) -> Absorbed:
    return events.absorb(connection, [event(mail, kind, at, **told)])


def of(
    batch: Batch, kind: EventKind, message: str, *, job: int = 0, site: UUID | None, seconds: float = 0, **said: Any
) -> Event:
    """An event of a job of a batch, with its tags."""
    sent = batch.jobs[job]
    moment = NOW + timedelta(seconds=seconds)
    return Event(kind, message, moment, sent.token, batch.fence, site, **{"address": sent.email, **said})


def tell_of(connection: Connection, batch: Batch, kind: EventKind, message: str, **said: Any) -> events.Absorbed:
    """Absorb one event of a batch of ours."""
    return events.absorb(connection, [of(batch, kind, message, site=events.site(connection), **said)])


def look_again(connection: Connection, *, hours: float = 0) -> None:
    """Let the sweep look again now at what contradicts acceptances, as if so many hours had passed since it came."""
    connection.execute(
        text(
            "UPDATE events SET look_at = clock_timestamp(), absorbed_at = absorbed_at - make_interval(hours => :hours)"
            " WHERE look_at IS NOT NULL"
        ),
        {"hours": int(hours)},
    )


def reasons(connection: Connection) -> dict[str, str | None]:
    """Why each address that is in an account is not mailed."""
    found = rows(
        connection,
        "SELECT email, reason FROM accounts JOIN suppressions ON address_hash = token_address_hash(email)",
    )
    return {row.email: row.reason for row in found}


def went_out(connection: Connection, number: int, *, ago: str = "0 s", outcome: str = "sent") -> int:
    """Let so many mails have left, the messages m1, m2, … of the tokens 1, 2, …; return the token of the newest."""
    newest: int = connection.execute(
        text(
            "WITH there AS (SELECT coalesce(max(token), 0) AS most FROM deliveries), added AS ("
            " INSERT INTO deliveries (token, action, outcome, attempt, message_id, created_at)"
            " SELECT most + n, 'activation', CAST(:outcome AS delivery_outcome), 0, 'm' || most + n,"
            "        clock_timestamp() - CAST(:ago AS interval) FROM there, generate_series(1, :number) AS n"
            " RETURNING token) SELECT max(token) FROM added"
        ),
        {"number": number, "ago": ago, "outcome": outcome},
    ).scalar_one()
    return newest


def came_back(
    connection: Connection, number: int, what: tuple[str, str, str], *, newest: int, ago: str = "0 s"
) -> None:
    """Let so many of the newest mails have come back."""
    connection.execute(
        text(
            "INSERT INTO events (message_id, token, kind, at, type, subtype)"
            " SELECT 'm' || n, n, CAST(:kind AS event_kind), clock_timestamp() - CAST(:ago AS interval), :type,"
            "        :subtype"
            " FROM generate_series(CAST(:newest AS bigint) - :number + 1, :newest) AS n"
        ),
        {"newest": newest, "number": number, "kind": what[0], "type": what[1], "subtype": what[2], "ago": ago},
    )
    connection.execute(text("UPDATE feed SET polled_at = clock_timestamp()"))
