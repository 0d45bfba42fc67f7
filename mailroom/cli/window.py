"""`window`: the operator's page, served on this machine or behind a login."""

import contextlib
import ipaddress
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

import typer
from sqlalchemy import Engine

from mailroom import settings
from mailroom.cli.log import start_log
from mailroom.cli.terminal import say
from mailroom.cli.wiring import from_extra, open_database
from mailroom.db.engine import connection_string
from mailroom.db.identity import SameDatabase
from mailroom.errors import SettingsError
from mailroom.finding import Finding
from mailroom.ops.doctor import examine
from mailroom.settings import Settings

# Pages are made in threads; what is more waits for a moment.
LOOKERS: Final = 4
ACTORS: Final = 2
# What the server shows of its connections.
SHOWN: Final = "mailroom window"
# The server ends a statement after two seconds; this is for one that does not answer at all.
ANSWER_WITHIN: Final = timedelta(seconds=5)
# RFC 9110, 5.1: what a header may be called. By another name nobody is ever known.
HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*")

Port = Annotated[int, typer.Option(min=0, max=65535, metavar="INTEGER", help="Port of the page. 0 takes a free one.")]
Host = Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="Allow an address that is not loopback. Needs a login.")
]
Names = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", show_default="none", help="A name under which browsers find it; may be repeated."),
]
Header = Annotated[
    str, typer.Option(metavar="HEADER", show_default="none", help="Header in which a proxy names the user.")
]
Peers = Annotated[
    list[str] | None,
    typer.Option(metavar="NETWORK", show_default="none", help="Address of a proxy in front; may be repeated."),
]


def window(
    *,
    port: Port = 8026,
    host: Host = "127.0.0.1",
    allow_remote: AllowRemote = False,
    name: Names = None,
    trust_header: Header = "",
    trust_peer: Peers = None,
) -> None:
    """Show the page for the engineer on call.

    Its first sentence says whether mail leaves, and what to do if not. It runs until it is stopped.

    It listens on this machine only, and then needs no login. With MAILROOM_WINDOW_PASSWORD it asks for that password;
    any user name will do. On any other address it needs TLS in front of it and a login: the password, or a proxy that
    names the user in --trust-header.

    The page only reads, and the role `viewer` of `mailroom grants` is enough. If MAILROOM_WINDOW_ACTIONS_DATABASE_URL
    is set, with the role `worker`, it also offers actions, with a reason and a preview.

    /metrics, /livez and /readyz are for programs, and need no login.
    """
    given = settings.load("database_url")
    peers = _networks(trust_peer or [])
    _check(given, host, remote=allow_remote, header=trust_header, peers=peers)
    _check_names(name or ())
    with from_extra("window"):
        from mailroom.window import login, server  # noqa: PLC0415 - needs the extra `window`

    start_log()
    listener = server.listen(host, port, allow_remote=allow_remote)
    with listener, _engines(given) as (looking, acting):
        right: login.Right = login.ACT if acting else login.LOOK
        entry = login.Login(right, password=given.window_password, header=trust_header, peers=peers)
        names = {"localhost", host, *(name or ())}
        made = _application(given, looking, acting, may=entry, names=names, remote=allow_remote)
        server.serve(made, listener, ready=lambda: say(f"the window is at {server.url(listener)}"))


def _check(given: Settings, host: str, *, remote: bool, header: str, peers: Sequence[Any]) -> None:
    if not HEADER.fullmatch(header):
        raise SettingsError(f"--trust-header: {header!r} is no name of a header: give one as in X-Remote-User")
    if bool(header) != bool(peers) and not (peers and given.window_password):
        raise SettingsError(
            "--trust-header and --trust-peer go together: a header says who asks only from a known peer,"
            " and a peer without a header is of use only with MAILROOM_WINDOW_PASSWORD"
        )
    if remote and not (given.window_password or header):
        raise SettingsError(
            f"--allow-remote needs a login, for {host} can be reached from elsewhere:"
            " set MAILROOM_WINDOW_PASSWORD, or give --trust-header"
        )


def _check_names(names: Sequence[str]) -> None:
    """Raise SettingsError for what would be a name under which nobody ever asks."""
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise SettingsError(f"--name: {name} is no name of a host: give it without a scheme, a port and a path")


def _networks(words: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(each, strict=False) for each in words]
    except ValueError as error:
        raise SettingsError(f"--trust-peer: {error}: give an address, or a network as in 10.0.0.0/8") from None


@contextlib.contextmanager
def _engines(given: Settings) -> Iterator[tuple[Engine, Engine | None]]:
    """Give the engine that looks, and the one that acts, if there is one."""
    with contextlib.ExitStack() as open_:
        looking = open_.enter_context(
            open_database(given, pool_size=LOOKERS, answer_within=ANSWER_WITHIN, writes=False, application_name=SHOWN)
        )
        acting = None
        if given.window_actions_database_url:
            as_worker = given.model_copy(update={"database_url": given.window_actions_database_url})
            acting = open_.enter_context(open_database(as_worker, pool_size=ACTORS, application_name=SHOWN))
            if not SameDatabase(looking, acting).holds():
                raise SettingsError(
                    "MAILROOM_WINDOW_ACTIONS_DATABASE_URL leads to another database than MAILROOM_DATABASE_URL: it is"
                    " to be the same one, with the role worker"
                )
        yield looking, acting


def _application(
    given: Settings, looking: Engine, acting: Engine | None, *, may: Any, names: set[str], remote: bool
) -> Any:
    from mailroom.window import application  # noqa: PLC0415 - as above
    from mailroom.window.application import FOR_PROGRAMS  # noqa: PLC0415 - as above

    return application(
        looking,
        may=may,
        actions=acting,
        names=names,
        any_address=remote,
        free=FOR_PROGRAMS,
        queue=given.queue_name,
        rate_limit=given.ses_rate,
        checks=None if acting is None else partial(_examine, given, acting),
    )


def _examine(given: Settings, acting: Engine) -> Iterator[Finding]:
    """Make the checks of the database."""
    url = given.listen_database_url or given.window_actions_database_url
    listening = connection_string(url, application_name=SHOWN)
    return examine(acting, listening=listening, channel=given.channel_name, queue=given.queue_name)
