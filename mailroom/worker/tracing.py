"""Spans of claims, batches and settlements, linked to the requests that asked for the mails. By the API alone."""

import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from mailroom.db.bounded import bounded
from mailroom.job import Batch
from mailroom.queue import traces
from mailroom.queue.claim import Claim
from mailroom.queue.verdict import Verdict
from mailroom.worker.telemetry import Result, Telemetry, WakenBy, installed_version

log = logging.getLogger(__name__)

T = TypeVar("T")

# A call waits for the links of its spans, and its permit does not.
MAX_ASKING: Final = timedelta(seconds=0.2)
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

Attributes = dict[str, str | int]


def is_wanted() -> bool:
    """Whether somebody takes the spans of this process: an SDK is set up, as `opentelemetry-instrument` does it."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


class Tracing:
    """Makes spans, and passes on what it is told. See `Telemetry`.

    The span of a batch begins with its claim and ends with its settlement; calls are within it, by whoever instruments
    botocore. No attribute has an address, a login, a secret, or words of the provider.
    """

    def __init__(self, inner: Telemetry, queue: str, tracer: Tracer | None = None) -> None:
        """`tracer` makes the spans; by default that of the SDK of this process."""
        self._inner = inner
        self._queue = queue
        self._tracer = tracer or trace.get_tracer("mailroom", installed_version())
        self._engine: Engine | None = None
        self._claimed: dict[UUID, tuple[int, SpanContext]] = {}
        self._spans: dict[UUID, Span] = {}
        self._failed = False

    def sweeps(self, connection: Connection) -> None:
        """See `Telemetry.sweeps`."""
        self._engine = connection.engine
        self._inner.sweeps(connection)

    def knows(self, actions: Iterable[str]) -> None:
        """See `Telemetry.knows`."""
        self._inner.knows(actions)

    def claimed(self, claim: Claim, *, seconds: float) -> None:
        """See `Telemetry.claimed`. A claim that found nothing has no span."""
        self._inner.claimed(claim, seconds=seconds)
        if claim.batches:
            self._safely(partial(self._trace_claim, claim, seconds))

    def sending(self, batch: Batch) -> AbstractContextManager[object]:
        """See `Telemetry.sending`."""
        return self._current(batch, self._inner.sending(batch))

    def called(self, operation: str, result: Result, *, seconds: float) -> None:
        """See `Telemetry.called`."""
        self._inner.called(operation, result, seconds=seconds)

    def settle_took(self, batches: Sequence[Batch], seconds: float) -> None:
        """See `Telemetry.settle_took`. It is within the span of a batch that is settled alone."""
        self._inner.settle_took(batches, seconds)
        self._safely(partial(self._trace_settlement, batches, seconds))

    def settled(self, batch: Batch, verdicts: Sequence[Verdict], *, owned: bool) -> dict[str, str]:
        """See `Telemetry.settled`."""
        self._claimed.pop(batch.fence, None)
        span = self._spans.pop(batch.fence, None)
        ids = self._inner.settled(batch, verdicts, owned=owned)
        if span is not None:
            self._safely(partial(_end, span, verdicts))
            ids |= _ids(span.get_span_context())
        return ids

    def settle_failed(self) -> None:
        """See `Telemetry.settle_failed`."""
        self._inner.settle_failed()

    def permit_awaited(self, seconds: float) -> None:
        """See `Telemetry.permit_awaited`."""
        self._inner.permit_awaited(seconds)

    def woken(self, by: WakenBy) -> None:
        """See `Telemetry.woken`."""
        self._inner.woken(by)

    def _safely(self, act: Callable[[], T]) -> T | None:
        """Do what may run the code of others, with which spans are processed: no mail must be lost for it."""
        try:
            return act()
        except Exception:
            if not self._failed:
                self._failed = True
                log.exception("spans are lost; what comes after this one is not told")
            return None

    def _trace_claim(self, claim: Claim, seconds: float) -> None:
        ended = time.time_ns()
        jobs = sum(len(batch.jobs) for batch in claim.batches)
        attributes = self._attributes("claim", "receive", claim.batches[0], jobs)
        began = ended - round(seconds * 1e9)
        span = self._tracer.start_span(
            f"claim {self._queue}", kind=SpanKind.CLIENT, attributes=attributes, start_time=began
        )
        for batch in claim.batches:
            self._claimed[batch.fence] = (began, span.get_span_context())
        span.end(ended)

    @contextlib.contextmanager
    def _current(self, batch: Batch, inner: AbstractContextManager[object]) -> Iterator[None]:
        span = self._safely(partial(self._begin, batch))
        with inner, contextlib.nullcontext() if span is None else _current(span):
            yield

    def _begin(self, batch: Batch) -> Span:
        began, claim = self._claimed.get(batch.fence, (None, None))
        span = self._tracer.start_span(
            f"process {self._queue}",
            kind=SpanKind.CONSUMER,
            attributes=self._attributes("process", "process", batch, len(batch.jobs)),
            links=[] if claim is None else [Link(claim)],
            start_time=began,
        )
        self._spans[batch.fence] = span
        if span.is_recording():
            for context in self._requests(batch):
                span.add_link(context)
        return span

    def _trace_settlement(self, batches: Sequence[Batch], seconds: float) -> None:
        spans = [span for batch in batches if (span := self._spans.get(batch.fence)) is not None]
        if not spans:
            return
        ended = time.time_ns()
        alone = trace.set_span_in_context(spans[0]) if len(spans) == 1 else None
        self._tracer.start_span(
            f"settle {self._queue}",
            context=alone,
            kind=SpanKind.CLIENT,
            attributes=self._attributes("settle", "settle", batches[0], sum(len(batch.jobs) for batch in batches)),
            links=[] if alone else [Link(span.get_span_context()) for span in spans],
            start_time=ended - round(seconds * 1e9),
        ).end(ended)

    def _attributes(self, name: str, kind: str, batch: Batch, jobs: int) -> Attributes:
        return {
            "messaging.system": "mailroom",
            "messaging.operation.name": name,
            "messaging.operation.type": kind,
            "messaging.destination.name": self._queue,
            "messaging.batch.message_count": jobs,
            "mailroom.action": str(batch.action),
            "mailroom.priority": batch.priority.value,
            "mailroom.batch": str(batch.fence),
        }

    def _requests(self, batch: Batch) -> list[SpanContext]:
        """The contexts in which the mails of a batch were asked for. Where they cannot be read, there are none."""
        if self._engine is None:
            return []
        try:
            with self._engine.connect() as connection, bounded(connection, MAX_ASKING):
                found = traces.find(connection, (job.token for job in batch.jobs))
        except SQLAlchemyError:
            return []
        return [context for words in found.values() if (context := context_of(words)) is not None]


def context_of(traceparent: str) -> SpanContext | None:
    """Return the context that a `traceparent` names; None if it names none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _current(span: Span) -> AbstractContextManager[object]:
    """Have what is called within the block belong to the span. What is raised there may quote an address."""
    return trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


def _end(span: Span, verdicts: Sequence[Verdict]) -> None:
    deliveries = [delivery for verdict in verdicts for delivery in verdict.deliveries]
    for outcome, mails in Counter(delivery.outcome for delivery in deliveries).items():
        span.set_attribute(f"mailroom.{outcome}", mails)
    code = next((one.error_code for one in deliveries if one.error_code is not None), None)
    if code is not None:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _ids(context: SpanContext) -> dict[str, str]:
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}
