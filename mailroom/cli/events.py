"""`events`: reading what SES reports, once."""

from datetime import timedelta
from typing import Annotated

import typer

from mailroom import settings, signals
from mailroom.cli.log import start_log
from mailroom.cli.wiring import feed_of, open_database, open_events
from mailroom.cli.worker import MAX_SECONDS
from mailroom.errors import FeedError, MailroomError
from mailroom.ops.words import several


def events(
    *,
    max_seconds: Annotated[
        float, typer.Option(min=1, max=MAX_SECONDS, metavar="SECONDS", help="Receive nothing more after this time.")
    ] = 300,
) -> None:
    """Read all events of SES, then exit.

    Run it from cron where no worker runs. A worker reads them by itself if MAILROOM_EVENTS_QUEUE_URL is set. Several
    may run at the same time, and beside workers. A signal stops it.

    Exit 1 if an event could not be absorbed: it stays in the queue, and the log names it.
    """
    start_log()
    given = settings.load("database_url", "events_queue_url")
    queue = open_events(given)
    with open_database(given) as engine:
        feed = feed_of(queue, given, engine, patient=False)
        with signals.answered_by(feed.stop):
            try:
                left = feed.drain(max_time=timedelta(seconds=max_seconds))
            except FeedError as error:
                raise MailroomError(
                    f"the queue of events cannot be used: {error}; `mailroom doctor` says more"
                ) from error
    if left:
        raise MailroomError(f"what could not be absorbed stays in the queue: {several(left, 'event')}, see the log")
