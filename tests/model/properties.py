"""What must hold of every state, and of a step that sends. Each property has its number in the protocol."""

from tests.model import people, record, sweeps
from tests.model.state import (
    ANSWER,
    FAILED,
    REJECTED,
    SENT,
    UNCONFIRMED,
    Database,
    Mail,
    Row,
    State,
    fence_of,
    token_of,
)
from tests.model.world import World

PROPERTIES = {
    "1": "every token is in one place",
    "2": "nothing ends sent that is never out, but where that was never told",
    "3": "whenever a mail goes out again, all but one of its batches are on record as unconfirmed",
    "4": "nothing is held for ever though accepted",
    "4b": "nothing is held for ever though known to be never out",
    "5": "a message is taken back once, and a token no more often than it has attempts",
    "6": "suppressed is what was mailed",
    "7": "a held job is not freed by what was taken back",
    "8": "evidence is there once",
    "9": "nothing stays failed though accepted",
    "10": "what is never out can be retried",
    "11": "nothing is sent while its acceptance is on record",
}


def doubled(before: State, after: State) -> str:
    """Return 3 if a mail goes out again, and of those that were out more than one batch has no unconfirmed row."""
    database = after.database
    known = {(row.fence, row.token) for row in database.log if row.outcome == UNCONFIRMED}
    for mail in set(after.mails) - set(before.mails):
        # Of a token that was pruned the record is gone: then a worker was frozen for as long as that is kept.
        if not mail.contradicted_by and mail.secret in database.tokens:
            out = [m.message for m in after.mails if m.secret == mail.secret and not m.contradicted_by]
            silent = [m for m in out if fence_of(m) not in after.lost and (fence_of(m), token_of(m)) not in known]
            if len(out) > 1 and len(silent) > 1:
                return "3"
    return ""


def broken(world: World, state: State) -> str:
    """Return the property that does not hold in this state, or nothing. The sweeps may come by before it is asked."""
    database = state.database
    found = ""
    suspicious = False
    for token, secret in enumerate(database.tokens, start=1):
        if not secret:
            continue
        ends = [
            r for r in database.log if r.token == token and not r.late and not r.retried and r.outcome != UNCONFIRMED
        ]
        job = database.jobs[token - 1]
        flying = sum(1 for batch in database.batches for held, _ in batch.jobs if held == token)
        if len(ends) + flying + (job is not None) != 1:
            return "1"
        suspicious = suspicious or bool(ends) or (job is not None and job.held)
    if len(set(database.events)) != len(database.events):
        return "8"
    if suspicious:
        after = sweeps.swept(world, state).database
        for token, secret in enumerate(database.tokens, start=1):
            found = found or (_wrong(world, state, after, token) if secret else "")
    return found


def _wrong(world: World, state: State, database: Database, token: int) -> str:
    """What is wrong with where a job has come to rest."""
    mails = [mail for mail in state.mails if mail.secret == database.tokens[token - 1]]
    end, job = record.final(database, token), database.jobs[token - 1]
    if end is not None:
        return _wrong_end(world, state, database, end, mails)
    if job is not None and job.held:
        if any(_proven(state, database, mail) for mail in mails):
            return "4"
        doubts = record.unconfirmed(database, token)
        if world.tagged and doubts and all(record.told_never_out(database, message) for message in doubts):
            return "4b"
    return ""


def _wrong_end(world: World, state: State, database: Database, end: Row, mails: list[Mail]) -> str:
    untold = [mail for mail in mails if not record.told_never_out(database, mail.message)]
    if end.outcome == SENT and not untold:
        return "2"
    if end.outcome in (FAILED, REJECTED) and any(_proven(state, database, mail) for mail in mails):
        return "9"
    if end.outcome != SENT and mails and not untold and people.refused(world, database, end.token):
        return "10"
    return ""


def _proven(state: State, database: Database, mail: Mail) -> bool:
    """Whether evidence has come that this mail was accepted, and none to the contrary.

    An event of a batch that a failover forgot is not believed, since it may be another's.
    """
    if record.told_never_out(database, mail.message):
        return False
    kinds = {kind for message, kind in database.told if message == mail.message}
    return ANSWER in kinds or (bool(kinds) and fence_of(mail.message) not in state.lost)
