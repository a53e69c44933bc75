"""Spans as tests look at them, and those that this process records."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

GENERATE = "/penstock.v1.GenerationService/Generate"


@dataclass(frozen=True)
class Span:
    """A span, wherever it was recorded. parent: empty for none. Ids are in hexadecimal."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    start_ns: int
    end_ns: int
    error: bool
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    @property
    def event_names(self) -> list[str]:
        return [name for name, _ in self.events]


@dataclass
class Trace:
    """Every span of one trace."""

    spans: list[Span]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        [span] = self.named(name)
        return span

    @property
    def stream(self) -> Span:
        """The server span of its only Generate call."""
        return self.one(GENERATE)

    def check_whole(self) -> None:
        """One root, and every other span's parent is there."""
        ids = {span.span_id for span in self.spans}
        assert len(ids) == len(self.spans)
        assert [span.name for span in self.spans if not span.parent] == ["caller"]
        assert [span.name for span in self.spans if span.parent and span.parent not in ids] == []


@cache
def recorder() -> InMemorySpanExporter:
    """Of the spans of this process. Clients record theirs only below a span of `caller`."""
    exporter = InMemorySpanExporter()
    clients = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    clients.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(clients)
    return exporter


@contextmanager
def caller() -> Iterator[trace.Span]:
    """A span of an application that calls the server, the root of a trace."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(recorder()))
    with provider.get_tracer("test").start_as_current_span("caller") as span:
        yield span


@contextmanager
def not_recorded() -> Iterator[trace.Span]:
    """The same where the application does not sample the trace."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    with provider.get_tracer("test").start_as_current_span("caller") as span:
        yield span


def own(span: Any) -> Span:
    return Span(
        name=span.name,
        trace_id=trace.format_trace_id(span.context.trace_id),
        span_id=trace.format_span_id(span.context.span_id),
        parent=trace.format_span_id(span.parent.span_id) if span.parent else "",
        start_ns=span.start_time,
        end_ns=span.end_time,
        error=span.status.status_code is trace.StatusCode.ERROR,
        attributes=dict(span.attributes),
        events=[(event.name, dict(event.attributes)) for event in span.events],
    )


def recorded(root: trace.Span) -> list[Span]:
    """The spans of this process that belong to the trace of `root` and have ended."""
    wanted = root.get_span_context().trace_id
    return [own(span) for span in recorder().get_finished_spans() if span.context.trace_id == wanted]
