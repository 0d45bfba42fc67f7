"""The simulator as a server on loopback: in a thread of this process, or until it is told to stop."""

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from mailroom import signals
from mailroom.simulator import publishing
from mailroom.simulator.account import Account
from mailroom.simulator.application import application
from mailroom.simulator.configuration_sets import ConfigurationSets
from mailroom.simulator.faults import Faults
from mailroom.simulator.feed import Feed, FeedSettings
from mailroom.simulator.happenings import Happening
from mailroom.simulator.ledger import Ledger
from mailroom.simulator.loopback import listen
from mailroom.simulator.queues import EVENTS, Queues
from mailroom.simulator.ses import Ses
from mailroom.simulator.sqs import queue_url
from mailroom.simulator.suppression import SuppressionList
from mailroom.simulator.templates import Templates


class Protocol(H11Protocol):
    """HTTP that lets the application close its connection, and a stopping server close those that hang."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, dict(app_state), _loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state["transport"] = transport

    def shutdown(self) -> None:
        super().shutdown()
        self.transport.close()


class Simulator:
    """SES at `url`, from `with` to its end. The parts of its state can be used from any thread."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        ledger_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        """Bind at once, so that the address is known; port 0 takes a free one.

        Without `allow_remote` any address but a loopback one raises `SettingsError`, as does one that is taken. The
        ledger keeps the newest `ledger_limit` mails and requests in full. `seed` decides faults with a probability.
        """
        self._ses = Ses(ledger=Ledger(ledger_limit), faults=Faults(seed), feed=Feed(seed))
        self._socket = listen(host, port, allow_remote=allow_remote)
        self._address = self._socket.getsockname()
        config = uvicorn.Config(
            application(self._ses, host=host, allow_remote=allow_remote),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="ses-simulator", daemon=True
        )

    @property
    def url(self) -> str:
        host, port = self._address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def ledger(self) -> Ledger:
        return self._ses.ledger

    @property
    def faults(self) -> Faults:
        return self._ses.faults

    @property
    def account(self) -> Account:
        return self._ses.account

    @property
    def templates(self) -> Templates:
        return self._ses.templates

    @property
    def configuration_sets(self) -> ConfigurationSets:
        return self._ses.configuration_sets

    @property
    def suppression(self) -> SuppressionList:
        return self._ses.suppression

    @property
    def feed(self) -> FeedSettings:
        return self._ses.feed.settings

    @property
    def queues(self) -> Queues:
        return self._ses.queues

    @property
    def events_queue_url(self) -> str:
        """The queue that gets the events of a configuration set that was created with them."""
        return queue_url(self.url, EVENTS)

    def happen(self, message_id: str, *story: Happening) -> None:
        """Let this happen to a mail that is in the ledger, and tell of it."""
        if mail := self._ses.ledger.find(message_id):
            publishing.happen(self._ses, mail, story)

    def reset(self) -> None:
        """Be as at the start: nothing in ledger and queues, no faults, no configuration sets; the server goes on."""
        self._ses.reset()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()


def serve(
    host: str,
    port: int,
    *,
    ready: Callable[[Simulator], None],
    allow_remote: bool = False,
    ledger_limit: int | None = None,
    config_set: str | None = None,
    events: bool = False,
) -> None:
    """Run until a signal asks to stop; call `ready` once it listens. For the main thread only.

    The configuration set `config_set` is made at the start; with `events` it publishes them.
    """
    simulator = Simulator(host=host, port=port, allow_remote=allow_remote, ledger_limit=ledger_limit)
    if config_set is not None:
        simulator.configuration_sets.create(config_set, events=events)
    stopped = signals.Stop()
    signals.listen()
    with signals.answered_by(stopped.set), simulator:
        ready(simulator)
        stopped.wait()
