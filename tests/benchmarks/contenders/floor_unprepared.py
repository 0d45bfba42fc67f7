"""The floor without prepared statements, as it has to do behind PgBouncer: each statement is planned each time."""

from functools import partial

from tests.benchmarks import rows
from tests.benchmarks.contenders.floor import work
from tests.benchmarks.contenders.mailroom import ask, prepare
from tests.benchmarks.contenders.program import run

if __name__ == "__main__":
    run(prepare=prepare, enqueue=rows.fill, ask=ask, work=partial(work, prepared=False))
