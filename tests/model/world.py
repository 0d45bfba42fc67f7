"""A world: how many there are of each, and what may happen in it."""

from dataclasses import dataclass

from tests.model.rules import ALL, Rules
from tests.model.state import NEVER_OUT, SEND, Database, Job, State


@dataclass(frozen=True, slots=True)
class World:
    """The rules that are kept, and what may happen."""

    rules: Rules = ALL
    tokens: int = 1
    workers: int = 2
    attempts: int = 2
    hold: bool = False  # what is unconfirmed is held, not sent again
    events: tuple[str, ...] = ()  # the kinds that come
    tagged: bool = True  # a rendering failure bears our tags
    accepts: bool = True
    garbles: bool = False  # a mail may fail to render
    rejects: bool = False  # Amazon SES may find something bad in it, after it has accepted it
    refuses: bool = False  # Amazon SES may refuse a mail for now
    bars: bool = False  # or for good, as it says in its answer
    loses: bool = True  # an answer may be lost
    crashes: bool = True
    rescues: bool = True
    repeats: bool = False  # the answer to a settlement may be lost, and it is made again
    returns: bool = False  # a batch may be given back; so may the answer to that be lost
    acts: int = 0  # how often a person releases, drops or retries
    failovers: int = 0  # how often a standby goes on, from a copy that is older
    other_account: bool = False  # ids of accounts come again too, so that another one signs up
    foreign: bool = False  # events of another database, with our ids
    moves: bool = False  # the account may change its address
    prunes: bool = False
    overlap: int = 0  # how many statements may be between snapshot and commit

    def start(self) -> State:
        """Return the state in which it begins: with a failover, before the sign-ups; else after them."""
        count = 0 if self.failovers else self.tokens
        empty = Database(
            tokens=tuple(range(1, count + 1)),
            jobs=(Job(attempt=0, held=False),) * count,
            batches=(),
            log=(),
            events=(),
            next_batch=1,
            address=1,
            suppressed=(),
            told=(),
            taken_back=(),
        )
        return State(empty, (), (), None, 0, (), count, 0, ())

    def proves(self, kind: str) -> bool:
        """Whether such an event proves that Amazon SES accepted the mail."""
        return kind == SEND or (self.rules.events_prove and kind not in NEVER_OUT)
