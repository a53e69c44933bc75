"""An OpenTelemetry collector that keeps the spans it is sent."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.service.eventually import eventually
from tests.spans import GENERATE, Span, Trace, recorded


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
            return Trace(recorded(root) + [span for span in self.spans if span.trace_id == wanted])

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
