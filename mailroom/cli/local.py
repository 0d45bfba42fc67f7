"""`simulator` and `demo`: mailroom on a machine without AWS."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Annotated

import typer

from mailroom.cli.build import start_log
from mailroom.cli.database import upgrade
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
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Bind other addresses too.")] = False,
    ledger_limit: Annotated[int | None, typer.Option(min=1, help="Keep this many mails, the newest.")] = None,
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
        from mailroom import demo as show  # noqa: PLC0415 - needs the extra `demo`
    start_log()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to clean up then, too
    with show.everything(port, upgrade, typer.echo) as running:
        arrived = running.run(accounts)
        if not exit_:
            with contextlib.suppress(KeyboardInterrupt):
                typer.echo(f"inbox: {running.simulator.url}/")
                typer.echo("press Ctrl-C to end")
                signal.pause()
    if not arrived:
        raise MailroomError("not every mail arrived")


def _say_where(url: str) -> None:
    typer.echo(f"the SES simulator listens at {url}; its inbox is at {url}/")
