"""Spans of claims, batches and settlements, and the requests that they are linked to."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Connection, Engine, text

from mailroom.mail.transport import Mail
from mailroom.outcome import Outcome, Rejected, Sent
from mailroom.queue import traces
from mailroom.simulator import Simulator
from mailroom.worker.telemetry import NO_TELEMETRY
from mailroom.worker.tracing import Tracing, context_of
from tests.cli.command import run as run_command
from tests.cli.command import sending
from tests.running import Scripted, eventually, working
from tests.world import add_accounts, count, drained, rows, transaction

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


class Spans:
    """What was traced, and the telemetry that traces it."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = Tracing(NO_TELEMETRY, "mailroom", self._provider.get_tracer("test"))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == f"{name} mailroom"]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def sign_up(engine: Engine, login: str, setting: str | None) -> None:
    """Be an application: insert an account in the transaction of a request that is traced."""
    with transaction(engine) as connection:
        if setting is not None:
            connection.execute(text("SELECT set_config('mailroom.trace', :setting, true)"), {"setting": setting})
        connection.execute(
            text("INSERT INTO accounts (email, login) VALUES (:login || '@example.com', :login)"), {"login": login}
        )
        connection.commit()


@pytest.mark.slow
def test_a_batch_is_a_span_from_its_claim_to_its_settlement(
    engine: Engine, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    current: list[trace.SpanContext] = []
    sends = Scripted()

    def answer(mails: Sequence[Mail]) -> Sequence[Outcome]:
        current.append(trace.get_current_span().get_span_context())
        return [Rejected("MessageRejected", "words of the provider"), *[Sent("m")] * (len(mails) - 1)]

    sends.answers = [answer]
    sign_up(engine, "traced", TRACE)
    with engine.connect() as connection:
        add_accounts(connection, 2)
        with working(engine, sends, telemetry=spans.telemetry):
            eventually(lambda: drained(connection), "they leave")
    [claim], [process], [settle] = (spans.named(name) for name in ("claim", "process", "settle"))
    assert claim.context is not None
    assert process.context is not None
    assert [link.context.trace_id for link in process.links] == [claim.context.trace_id, int("ab" * 16, 16)]
    assert current == [process.context], "a call is within it"
    assert settle.parent == process.context
    assert process.start_time == claim.start_time
    assert process.attributes is not None
    assert dict(process.attributes) | {"mailroom.batch": "a fence"} == {
        "messaging.system": "mailroom",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mailroom",
        "messaging.batch.message_count": 3,
        "mailroom.action": "activation",
        "mailroom.priority": 1,
        "mailroom.batch": "a fence",
        "mailroom.sent": 2,
        "mailroom.rejected": 1,
        "error.type": "MessageRejected",
    }
    told = {record.trace_id for record in caplog.records if hasattr(record, "trace_id")}
    assert told == {trace.format_trace_id(process.context.trace_id)}, "log and spans share it"


@pytest.mark.slow
def test_no_span_has_anything_of_a_person(engine: Engine, spans: Spans) -> None:
    sends = Scripted()
    sends.answers = [lambda mails: [Rejected("MessageRejected", "canary@example.com is refused")] * len(mails)]
    sign_up(engine, "canary", TRACE)
    with engine.connect() as connection, working(engine, sends, telemetry=spans.telemetry):
        eventually(lambda: drained(connection), "it is over")
    written = "".join(span.to_json() for name in ("claim", "process", "settle") for span in spans.named(name))
    assert "mailroom.rejected" in written
    assert "canary" not in written


@pytest.mark.slow
def test_an_error_within_a_call_leaves_no_word_in_its_span(engine: Engine, spans: Spans) -> None:
    """Such as a KeyError, which quotes what it did not find."""
    sends = Scripted()

    def stumble(mails: Sequence[Mail]) -> Sequence[Outcome]:
        raise KeyError(mails[0].address)

    sends.answers = [stumble]
    sign_up(engine, "canary", TRACE)
    with engine.connect() as connection, working(engine, sends, telemetry=spans.telemetry):
        eventually(lambda: count(connection, "deliveries WHERE error_code = 'InternalError'"), "it is on record")
        eventually(lambda: spans.named("process"), "its span has ended")
    [process] = spans.named("process")[:1]
    assert "InternalError" in process.to_json()
    assert "canary" not in process.to_json()


class Broken(SpanProcessor):
    """What processes spans is the operator's choice, and not always well."""

    def on_start(self, span: object, parent_context: object = None) -> None:
        raise RuntimeError("on_start")

    def on_end(self, span: object) -> None:
        raise RuntimeError("on_end")


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["on_start", "on_end"])
def test_who_cannot_process_spans_costs_no_mail(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    works = "on_end" if broken == "on_start" else "on_start"
    monkeypatch.setattr(Broken, works, getattr(SpanProcessor, works))
    provider = TracerProvider()
    provider.add_span_processor(Broken())
    with engine.connect() as connection:
        add_accounts(connection, 30)
        with working(engine, Scripted(), telemetry=Tracing(NO_TELEMETRY, "mailroom", provider.get_tracer("test"))):
            eventually(lambda: drained(connection), "they are sent")
        assert count(connection, "deliveries WHERE outcome = 'sent'") == count(connection, "deliveries") == 30
    assert caplog.text.count("spans are lost") == 1


def test_a_look_that_finds_nothing_is_no_span(engine: Engine, spans: Spans) -> None:
    with engine.connect() as connection, working(engine, Scripted(), telemetry=spans.telemetry):
        add_accounts(connection, 1)
        eventually(lambda: drained(connection), "it leaves")
    assert len(spans.named("claim")) == 1


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        (TRACE, TRACE),
        (None, None),
        ("", None),
        ("canary@example.com", None),
        (TRACE.upper(), None),
        (f"{TRACE}-more", None),
        (f"01-{TRACE[3:]}", None),
    ],
)
def test_a_token_keeps_the_trace_it_was_made_in_and_nothing_else(
    engine: Engine, setting: str | None, kept: str | None
) -> None:
    """Whatever the setting is, the application's statement succeeds."""
    sign_up(engine, "ada", setting)
    with engine.connect() as connection:
        [token] = rows(connection, "SELECT id, trace FROM tokens")
        assert token.trace == kept
        assert traces.find(connection, [token.id]) == ({} if kept is None else {token.id: kept})
        assert count(connection, "jobs") == 1


def test_a_trace_that_names_nothing_is_none() -> None:
    assert context_of(f"00-{'0' * 32}-{'cd' * 8}-01") is None
    assert context_of("words") is None
    found = context_of(TRACE)
    assert found is not None
    assert found.is_remote


SETUP = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
trace.set_tracer_provider(provider)
from mailroom.__main__ import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("set_up", [True, False])
def test_a_process_traces_where_an_sdk_is_set_up(
    url: str, connection: Connection, simulator: Simulator, tmp_path: Path, *, set_up: bool
) -> None:
    add_accounts(connection, 2)
    script = tmp_path / "traced.py"
    script.write_text(SETUP if set_up else SETUP.replace("trace.set_tracer_provider(provider)", ""))
    ended = run_command(
        [sys.executable, str(script), "sweep"], env=sending(url, simulator) | {"PYTHONPATH": os.getcwd()}
    )
    assert ended.code == 0, ended.err
    assert ('"name": "process mailroom"' in ended.out) == set_up
    assert "@example.com" not in ended.out
