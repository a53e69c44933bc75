"""An OpenTelemetry collector that keeps the spans it is sent, and spans of this process beside them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from tests.service.eventually import eventually


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


GENERATE = "/penstock.v1.GenerationService/Generate"


@dataclass
class Collector:
    """What came, in `requests`. address: of the gRPC server, as HOST:PORT."""

    address: str = ""
    requests: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)

    @property
    def options(self) -> dict[str, str]:
        """Of a server that sends its traces here."""
        return {"TELEMETRY__OTLP_ENDPOINT": f"http://{self.address}"}

    @property
    def spans(self) -> list[Span]:
        return [
            _received(span)
            for request in tuple(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def trace_of(self, root: trace.Span, *, holds: Callable[[Trace], bool] | None = None) -> Trace:
        """All spans of the trace, once the stream's own is there; it is exported after its children."""
        wanted = trace.format_trace_id(root.get_span_context().trace_id)

        async def look() -> Trace:
            ours = [_own(span) for span in _recorder().get_finished_spans()]
            return Trace([span for span in (*ours, *self.spans) if span.trace_id == wanted])

        return await eventually(look, holds or (lambda trace: bool(trace.named(GENERATE))))


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self._collector.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(_Service(collector), server)
        collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()


@cache
def _recorder() -> InMemorySpanExporter:
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
    provider.add_span_processor(SimpleSpanProcessor(_recorder()))
    with provider.get_tracer("test").start_as_current_span("caller") as span:
        yield span


def _own(span: Any) -> Span:
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


def _received(span: trace_pb2.Span) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
        events=[(event.name, _attributes(event.attributes)) for event in span.events],
    )


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
