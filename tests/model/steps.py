"""Whatever may happen next in a world: workers, Amazon SES, events, sweeps, people, a failover."""

from collections.abc import Iterator
from itertools import product

from tests.model import people, properties, statements, sweeps
from tests.model.record import FOREIGN_FENCE
from tests.model.state import (
    BOUNCE,
    FAILURE,
    NEVER_OUT,
    REJECT,
    SEND,
    Carried,
    Event,
    Job,
    Mail,
    State,
    Statement,
    Step,
    Worker,
    fence_of,
    message_of,
)
from tests.model.statements import with_worker, without_worker
from tests.model.world import World

CONTRADICTION = {"garble": FAILURE, "reject": REJECT}


def steps(world: World, state: State) -> Iterator[Step]:
    """Yield each step that may follow. A statement may have read its snapshot just before any of them."""
    yield from _now(world, state)
    if world.overlap:
        for name, statement in _readings(world, state):
            if len(state.pending) >= world.overlap or statement in state.pending:
                continue
            opened = state._replace(pending=tuple(sorted((*state.pending, statement), key=repr)))
            for label, after, broken in _now(world, opened, read=False):
                # What has changed nothing may as well come before it has read.
                if after.database != state.database:
                    yield Step(f"{name} reads, {label}", _with_rows_gone(world, state, after), broken)
        if state.pending:
            for statement in state.pending:
                yield _late_act(world, state, statement)


def _now(world: World, state: State, *, read: bool = True) -> Iterator[Step]:
    for step in _each(world, state):
        yield step if not state.pending or not read else step._replace(state=_with_rows_gone(world, state, step.state))


def _each(world: World, state: State) -> Iterator[Step]:
    yield from _readings_acted(world, state)
    for worker in sorted(set(state.workers)):
        yield from _worker_steps(world, state, worker)
    if world.rescues:
        for batch in state.database.batches:
            after = statements.rescue(world, state.database, batch)
            yield Step(f"rescue b{batch.fence}", state._replace(database=after))
    yield from _by_hand(world, state)
    yield from _of_the_world(world, state)


# Statements that read before they act


def _readings(world: World, state: State) -> Iterator[tuple[str, Statement]]:
    database = state.database
    busy = len(state.workers) + sum(1 for statement in state.pending if statement.name == "claim")
    if busy < world.workers:
        for claim in statements.claims(world, state):
            yield f"claim {'+'.join(map(str, claim.jobs))}", claim
    sweeping = (sweeps.take_back_plan, sweeps.free_plan, sweeps.amend_plan)
    for plan in sweeping if world.rules.sweep_takes_back else sweeping[1:]:
        if statement := plan(world, database):
            yield statement.name, statement
    yield from _events(world, state)
    for token in range(1, len(database.tokens) + 1):
        if state.acts < world.acts and (statement := people.retry_plan(world, database, token)):
            yield f"retry {token}", statement
        if world.prunes and (statement := sweeps.prune_plan(database, token)):
            yield f"prune {token}", statement


def _events(world: World, state: State) -> Iterator[tuple[str, Statement]]:
    """From acceptance on an event may come at any moment, any number of times: told again, it changes nothing."""
    for mail in state.mails:
        for kind in world.events:
            there = world.rules.unique and Event(kind, mail.message) in state.database.events
            if not there and (
                kind == SEND or (kind == mail.contradicted_by or (kind not in NEVER_OUT and not mail.contradicted_by))
            ):
                yield f"{kind} m{fence_of(mail.message)}", sweeps.absorb_plan(world, state.database, mail, kind)
    if world.foreign:
        foreign = Mail(message_of(FOREIGN_FENCE, 1), 0, 1, 0, "")
        yield "foreign Send", sweeps.absorb_plan(world, state.database, foreign, SEND)


def _readings_acted(world: World, state: State) -> Iterator[Step]:
    for name, statement in _readings(world, state):
        after, broken = _act(world, state, statement)
        yield Step(name, after, broken)


def _act(world: World, state: State, statement: Statement) -> tuple[State, str]:
    match statement.name:
        case "claim":
            return statements.claim(world, state, statement), statement.broken
        case "take back":
            return sweeps.take_back(world, state, statement)
        case "free":
            return sweeps.free(state, statement), statement.broken
        case "amend":
            return sweeps.amend(state, statement), ""
        case "absorb":
            return sweeps.absorb(world, state, statement)
        case "settle late":
            return statements.settle_late(world, state, statement)
        case "retry":
            return people.retry(state._replace(acts=state.acts + 1), statement), ""
        case _:
            return sweeps.prune(state, statement), ""


def _late_act(world: World, state: State, statement: Statement) -> Step:
    """Let a statement lock, act and commit, with what it has read before."""
    waiting = list(state.pending)
    waiting.remove(statement)
    after, broken = _act(world, state._replace(pending=tuple(waiting)), statement)
    return Step(f"{statement.name} acts", _with_rows_gone(world, state, after), broken)


def _with_rows_gone(world: World, before: State, after: State) -> State:
    """Let statements that wait know whose job is not the row any more that they have read: it was deleted."""
    if not after.pending or before.database.jobs == after.database.jobs or not world.rules.asked_under_locks:
        return after
    old, new = before.database.jobs, after.database.jobs
    gone = {token for token, job in enumerate(old, start=1) if job is not None and new[token - 1] is None}
    pending = tuple(
        statement._replace(jobs=tuple(token for token in statement.jobs if token not in gone))
        for statement in after.pending
    )
    pending = tuple(one for one in pending if one.jobs or one.name not in ("claim", "free"))
    return after._replace(pending=tuple(sorted(pending, key=repr)))


# Workers, and Amazon SES


def _worker_steps(world: World, state: State, worker: Worker) -> Iterator[Step]:
    name = f"b{worker.fence}"
    idle = state._replace(workers=without_worker(state, worker))
    if world.crashes and worker.phase != "called":  # a crash then is an answer that is lost, and a crash
        yield Step(f"crash {name}", idle)
    match worker.phase:
        case "claimed":
            yield from _calls(world, state, worker)
            yield from _returns(world, state, worker, idle)
        case "called":
            yield Step(f"answered {name}", with_worker(state, worker, worker._replace(phase="answered")))
            if world.loses:
                yield Step(f"lost {name}", with_worker(state, worker, worker._replace(phase="unanswered")))
        case _:
            yield from _settlements(world, state, worker, idle)


def _calls(world: World, state: State, worker: Worker) -> Iterator[Step]:
    may = {
        "accept": world.accepts,
        "garble": world.garbles,
        "reject": world.rejects,
        "refuse": world.refuses,
        "bar": world.bars,
    }
    fates = [fate for fate, on in may.items() if on]
    for chosen in product(fates, repeat=len(worker.jobs)):
        mails, jobs = list(state.mails), []
        for job, fate in zip(worker.jobs, chosen, strict=True):
            refused = fate if fate in ("refuse", "bar") else ""
            jobs.append(job._replace(refused=refused))
            if not refused:
                mails.append(_mail(state, worker, job, contradicted_by=CONTRADICTION.get(fate, "")))
        after = with_worker(state, worker, worker._replace(phase="called", jobs=tuple(jobs)))
        after = after._replace(mails=tuple(sorted(mails)))
        yield Step(f"{'+'.join(chosen)} b{worker.fence}", after, properties.doubled(state, after))
    if world.loses:
        yield Step(f"no call b{worker.fence}", with_worker(state, worker, worker._replace(phase="unanswered")))


def _mail(state: State, worker: Worker, job: Carried, *, contradicted_by: str) -> Mail:
    return Mail(message_of(worker.fence, job.token), job.secret, worker.batch, state.database.address, contradicted_by)


def _returns(world: World, state: State, worker: Worker, idle: State) -> Iterator[Step]:
    batch = statements.batch_to_close(world, state.database, worker)
    if not world.returns or batch is None:
        return
    after = statements.give_back(state.database, batch)
    yield Step(f"return b{worker.fence}", idle._replace(database=after))
    if not world.rules.returned_is_unsent:
        yield Step(f"return b{worker.fence}, answer lost", state._replace(database=after))


def _settlements(world: World, state: State, worker: Worker, idle: State) -> Iterator[Step]:
    """Settle; where the batch is not ours any more, as late. Where the answer is lost, the worker does so again."""
    name = f"b{worker.fence}"
    batch = statements.batch_to_close(world, state.database, worker)
    broken = ""
    if batch is not None:
        done = idle._replace(database=statements.settle(world, state.database, worker, batch))
        name = f"settle {name}"
    else:
        statement = statements.late_settlement(world, state.database, worker)
        done, broken = statements.settle_late(world, idle, statement)
        name = f"settle {name} late"
        if len(state.pending) < world.overlap and len(statement.plan) > 1:
            yield Step(f"{name} reads", idle._replace(pending=tuple(sorted((*state.pending, statement), key=repr))))
    yield Step(name, done, broken)
    if world.repeats:
        yield Step(f"{name}, answer lost", done._replace(workers=state.workers), broken)


# People


def _by_hand(world: World, state: State) -> Iterator[Step]:
    if state.acts >= world.acts:
        return
    for token in range(1, len(state.database.tokens) + 1):
        for name, act in (("release", people.release), ("drop", people.drop)):
            if (after := act(state.database, token)) is not None:
                yield Step(f"{name} {token}", state._replace(database=after, acts=state.acts + 1))


# The rest of the world


def _of_the_world(world: World, state: State) -> Iterator[Step]:
    database = state.database
    if world.moves and database.address == 1 and BOUNCE in world.events:
        yield Step("new address", state._replace(database=database._replace(address=2)))
    if world.prunes and not world.rules.pruned_with_token:
        for event in database.events:
            rest = tuple(one for one in database.events if one != event)
            yield Step(f"{event.kind} pruned", state._replace(database=database._replace(events=rest)))
    if world.failovers:
        yield from _sign_up(world, state)
        if state.standby is None and state.failovers < world.failovers:
            yield Step("copy", state._replace(standby=database))
        if state.standby is not None:
            yield Step("failover", _failed_over(state))


def _sign_up(world: World, state: State) -> Iterator[Step]:
    """Another token, with the next id. What was signed up for and lost does not come back."""
    database = state.database
    if len(database.tokens) < world.tokens and state.sign_ups < world.tokens + world.failovers:
        secret = state.sign_ups + 1
        more = database._replace(tokens=(*database.tokens, secret), jobs=(*database.jobs, Job(attempt=0, held=False)))
        yield Step(f"sign-up {secret}", state._replace(database=more, sign_ups=secret))


def _failed_over(state: State) -> State:
    """The standby goes on, from what it has; workers go on with what they hold."""
    after = state.standby
    assert after is not None
    here = {batch.fence for batch in after.batches} | {row.fence for row in after.log}
    out = {worker.fence for worker in state.workers} | {fence_of(mail.message) for mail in state.mails}
    lost = tuple(sorted({*state.lost, *(out - here)}))
    return state._replace(database=after, standby=None, failovers=state.failovers + 1, lost=lost, pending=())
