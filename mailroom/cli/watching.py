"""What lets others see how a worker or a sweep is: metrics, probes, systemd. None of it is there unless asked for."""

import contextlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailroom import settings
from mailroom.cli.wiring import ANSWER_WITHIN
from mailroom.errors import MailroomError, SettingsError
from mailroom.job import SesAccount
from mailroom.mail.transport import Transport
from mailroom.settings import Settings
from mailroom.worker import probes
from mailroom.worker.observed import ObservedTransport, observed_account
from mailroom.worker.telemetry import NO_TELEMETRY, Telemetry
from mailroom.worker.vitals import Vitals

if TYPE_CHECKING:
    from mailroom.worker.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Watch:
    """What a process keeps of itself for those who watch it, and whom it tells. Without a watcher, nothing."""

    vitals: Vitals
    telemetry: Telemetry = NO_TELEMETRY
    is_watched: bool = False

    @property
    def step(self) -> Callable[[], object] | None:
        """What is to be called before whatever may hang in the database."""
        return self.vitals.beat if self.is_watched else None

    def transport(self, transport: Transport) -> Transport:
        """Return a transport whose calls are seen."""
        if not self.is_watched:
            return transport
        return ObservedTransport(transport, telemetry=self.telemetry, vitals=self.vitals)

    def account(self, ask: Callable[[], SesAccount]) -> Callable[[], SesAccount]:
        """Return what asks for the account, seen as well."""
        return observed_account(ask, self.telemetry) if self.is_watched else ask


@contextlib.contextmanager
def watching_worker(given: Settings) -> Iterator[Watch]:
    """Serve the probes and tell systemd, as far as either is asked for, for as long as the block lasts."""
    vitals, supervisor = Vitals(), settings.supervisor()
    limits = probes.bounds(lease=given.lease, answer_within=ANSWER_WITHIN, sweep_interval=given.sweep_interval)
    with contextlib.ExitStack() as opened:
        telemetry = NO_TELEMETRY
        if given.probe_address is not None:
            from mailroom.worker.metrics import Metrics  # noqa: PLC0415 - only who shows them pays
            from mailroom.worker.probe_server import Probes, serving  # noqa: PLC0415 - likewise

            telemetry = metrics = Metrics(vitals)
            answers = Probes(
                live=lambda: probes.live(vitals, limits),
                ready=lambda: probes.ready(vitals, limits),
                metrics=metrics.exposition,
            )
            opened.enter_context(serving(answers, *given.probe_address))
        if supervisor is not None:
            from mailroom.worker.systemd import supervised  # noqa: PLC0415 - likewise

            is_live = lambda: probes.passed(probes.live(vitals, limits))  # noqa: E731 - as the two above
            opened.enter_context(supervised(supervisor.address, vitals, is_live, watchdog=supervisor.watchdog))
        traced = with_traces(telemetry, given)
        asked = given.probe_address is not None or supervisor is not None or traced is not telemetry
        yield Watch(vitals, traced, is_watched=asked)


@contextlib.contextmanager
def counting_sweep(given: Settings, path: Path | None) -> Iterator[Watch]:
    """Count for as long as the block lasts, and write that to a file in the end, however it ends. None: do neither."""
    vitals = Vitals()
    if path is None:
        yield Watch(vitals, with_traces(NO_TELEMETRY, given))
        return
    _refuse_other_than_file(path)
    from mailroom.worker.metrics import Metrics  # noqa: PLC0415 - only who shows them pays

    metrics = Metrics(vitals, lives=False)
    try:
        yield Watch(vitals, with_traces(metrics, given), is_watched=True)
    except BaseException:  # that is the news, and not whether the file can be written
        with contextlib.suppress(MailroomError):
            _write(metrics, path)
        raise
    _write(metrics, path)


def _refuse_other_than_file(path: Path) -> None:
    """Raise SettingsError for what is there and is to stay: the new file takes its place, be it /dev/null."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing is there, or writing says why not
        return
    if not stat.S_ISREG(mode):
        raise SettingsError(f"--metrics-file: {path} is there, and is no ordinary file")


def _write(metrics: "Metrics", path: Path) -> None:
    try:
        metrics.write(path)
    except OSError as error:
        raise MailroomError(f"the metrics cannot be written to {path}: {error.strerror}") from error


def with_traces(telemetry: Telemetry, given: Settings) -> Telemetry:
    """Return what also makes spans, if the extra `otel` is there and somebody in this process takes them."""
    try:
        from mailroom.worker.tracing import Tracing, is_wanted  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        return telemetry
    return Tracing(telemetry, given.queue_name) if is_wanted() else telemetry
