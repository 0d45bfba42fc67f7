"""`simulator` and `demo`: mailroom on a machine without AWS."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Annotated

import typer

from mailroom import signals
from mailroom.cli.database import upgrade
from mailroom.cli.log import start_log
from mailroom.cli.terminal import say
from mailroom.errors import MailroomError

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port of the simulator; 0 takes a free one.")]


@contextlib.contextmanager
def _demo_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MailroomError(f"{error.name} is not installed: it comes with the extra `demo`") from error


def simulator(
    *,
    port: Port = 8025,
    host: Annotated[str, typer.Option(help="Address to bind; a loopback one.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Bind other addresses too, and answer under them.")
    ] = False,
    ledger_limit: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Keep this many mails, the newest.")
    ] = None,
) -> None:
    """Be an SES on loopback, with an inbox page at /; until stopped. Nothing is delivered.

    Point boto3 at it with AWS_ENDPOINT_URL_SESV2, and any region and credentials.
    """
    with _demo_extra():
        from mailroom.simulator import serve  # noqa: PLC0415 - needs the extra `demo`
    serve(host, port, allow_remote=allow_remote, ledger_limit=ledger_limit, ready=_say_where)


def demo(
    *,
    exit_: Annotated[bool, typer.Option("--exit", help="End by itself: 0 if every mail arrived, else 1.")] = False,
    accounts: Annotated[int, typer.Option(min=1, max=10_000, help="How many sign up.")] = 42,
    port: Port = 0,
) -> None:
    """Show the whole path with nothing installed: PostgreSQL, migrations, SES simulator, worker, mails."""
    with _demo_extra():
        from mailroom.demo import run as show  # noqa: PLC0415 - needs the extra `demo`
    start_log()
    stopped = threading.Event()
    with signals.answered_by(stopped.set), show.everything(port, upgrade, say, stopped) as running:
        arrived = running.run(accounts)
        if not exit_:
            say(f"inbox: {running.simulator.url}/")
            say("press Ctrl-C to end")
            stopped.wait()
    if not arrived:
        raise MailroomError("not every mail arrived")


def _say_where(url: str) -> None:
    say(f"the SES simulator listens at {url}; its inbox is at {url}/")
