"""What the log and the events say of a token or a message: asked by claim, free, amend, retry and absorb alike."""

from tests.model.state import (
    FAILURE,
    FINAL,
    REJECT,
    SENT,
    UNCONFIRMED,
    Database,
    Event,
    Message,
    Row,
    fence_of,
    message_of,
    token_of,
)
from tests.model.world import World

FOREIGN_FENCE = 200


def final(database: Database, token: int) -> Row | None:
    """Return the row that says how a job ended, if it has."""
    for row in database.log:
        if row.token == token and not row.late and not row.retried and row.outcome in FINAL:
            return row
    return None


def never_out(database: Database, message: Message) -> bool:
    """Whether it is on record that this message failed to render, or was rejected."""
    return Event(FAILURE, message) in database.events or Event(REJECT, message) in database.events


def told_never_out(database: Database, message: Message) -> bool:
    """For the checker: whether that was ever told."""
    return (message, FAILURE) in database.told or (message, REJECT) in database.told


def accepted(world: World, database: Database, token: int) -> Message:
    """Return a message of this token that is on record as accepted, or 0: the function that all four ask."""
    late = [
        row.message
        for row in database.log
        if row.token == token and row.late and row.outcome == SENT and _of_the_same_mail(world, database, row)
    ]
    proven = [
        event.message for event in database.events if token_of(event.message) == token and world.proves(event.kind)
    ]
    for message in late + proven:
        if not (world.rules.failure_is_no_acceptance and never_out(database, message)):
            return message
    return 0


def _of_the_same_mail(world: World, database: Database, row: Row) -> bool:
    """By a hash of the secret; without that rule by the account, which is the same or comes again."""
    secret = database.tokens[row.token - 1]
    return row.secret == secret or (not world.rules.secret and not world.other_account)


def known(world: World, database: Database, message: Message, batch: int) -> bool:
    """Whether a token was in a batch, here: while that is in flight, or by the log."""
    token, fence = token_of(message), fence_of(message)
    by_fence = world.rules.fence_in_tag
    for one in database.batches:
        if (one.fence == fence if by_fence else one.id == batch) and any(token == held for held, _ in one.jobs):
            return True
    for row in database.log:
        mine = row.token == token or (not world.rules.bound and row.token == 0)
        if mine and (row.fence == fence if by_fence else row.batch == batch):
            return True
    return False


def unconfirmed(database: Database, token: int) -> list[Message]:
    """Return the messages of a token of which nobody heard whether they were accepted."""
    return [
        message_of(row.fence, token)
        for row in database.log
        if row.token == token and row.outcome == UNCONFIRMED and not row.late
    ]
