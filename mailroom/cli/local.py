"""`simulator` and `demo`: mailroom on a machine without AWS."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from mailroom import signals
from mailroom.cli.database import upgrade
from mailroom.cli.log import start_log
from mailroom.cli.terminal import say
from mailroom.cli.wiring import from_extra
from mailroom.errors import MailroomError, SettingsError

if TYPE_CHECKING:
    from mailroom.simulator import Simulator

Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="INTEGER", help="Port of the simulator. 0 takes a free one.")
]
LedgerLimit = Annotated[
    int | None,
    typer.Option(
        min=1, max=10_000_000, metavar="INTEGER", show_default="all", help="Keep only this many mails, the newest."
    ),
]
ConfigSet = Annotated[
    str | None, typer.Option("--config-set", metavar="NAME", show_default="none", help="Make a configuration set.")
]
Events = Annotated[
    bool, typer.Option("--events", help="Publish the events of that set to a queue, and print the queue's URL.")
]


def simulator(
    *,
    port: Port = 8025,
    host: Annotated[str, typer.Option(metavar="HOST", help="Loopback address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow other addresses too, and answer requests to them.")
    ] = False,
    ledger_limit: LedgerLimit = None,
    config_set: ConfigSet = None,
    events: Events = False,
) -> None:
    """Run an SES simulator on this machine.

    It runs until it is stopped. It delivers nothing: its page at / shows the mails, and lets them bounce. It has an SQS
    queue for the events of its mails.

    Set AWS_ENDPOINT_URL_SESV2 and AWS_ENDPOINT_URL_SQS to its address. Any region and any credentials will do. As at
    SES, no configuration set is there until somebody makes it; MAILROOM_SES_CONFIG_SET must name one, or be empty.
    """
    if events and config_set is None:
        raise SettingsError("--events needs --config-set: events are a configuration set's")
    with from_extra("demo"):
        from mailroom.simulator import serve  # noqa: PLC0415 - needs the extra `demo`
    serve(
        host,
        port,
        allow_remote=allow_remote,
        ledger_limit=ledger_limit,
        config_set=config_set,
        events=events,
        ready=partial(_say_where, events=events),
    )


def demo(
    *,
    exit_: Annotated[bool, typer.Option("--exit", help="Exit when done: 0 if every mail arrived, else 1.")] = False,
    accounts: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="INTEGER", help="How many accounts sign up.")
    ] = 42,
    port: Port = 0,
) -> None:
    """Show mailroom at work on this machine.

    It brings its own PostgreSQL and its own SES simulator. It migrates, starts a worker, lets accounts sign up, and
    shows their mails.
    """
    with from_extra("demo"):
        from mailroom.demo import run as show  # noqa: PLC0415 - needs the extra `demo`
    start_log()
    stopped = signals.Stop()
    with signals.answered_by(stopped.set), show.everything(port, upgrade, say, stopped) as running:
        arrived = running.run(accounts)
        if not exit_:
            say(f"inbox: {running.simulator.url}/")
            say("press Ctrl-C to end")
            stopped.wait()
    if not arrived:
        raise MailroomError("not every mail arrived")


def _say_where(simulator: "Simulator", *, events: bool) -> None:
    say(f"the SES simulator listens at {simulator.url}; its inbox is at {simulator.url}/")
    if events:
        say(f"its events are in the queue {simulator.events_queue_url}")
