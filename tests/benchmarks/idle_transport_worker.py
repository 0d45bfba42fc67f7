"""A worker whose transport does nothing, as a process: what mailroom itself costs."""

import sys
from collections.abc import Sequence
from datetime import timedelta

from mailroom import settings
from mailroom.cli.build import limits, open_database
from mailroom.cli.work import run_until_stopped
from mailroom.job import Action, Outcome, Sent
from mailroom.transport import Mail, Permitted, always
from mailroom.worker import Worker


class NoTransport:
    """Says that everything was sent."""

    longest_call = timedelta(0)

    def send(
        self,
        action: Action,
        mails: Sequence[Mail],
        *,
        batch: int | None,
        within: timedelta,
        permitted: Permitted = always,
    ) -> Sequence[Outcome]:
        return [Sent("none")] * len(mails)


def main(concurrency: int) -> None:
    given = settings.load("database_url", "secret_key")
    with open_database(given, pool_size=concurrency + 2) as engine:
        worker = Worker(
            engine,
            NoTransport(),
            key=given.signing_key,
            limits=limits(given),
            concurrency=concurrency,
            sweep_interval=given.sweep_interval,
        )
        run_until_stopped(worker, None)


main(int(sys.argv[1]))
