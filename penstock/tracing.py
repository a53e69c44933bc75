"""W3C trace context in the metadata of calls, and a span for each answer, where opentelemetry-api is there.

Only the API is used: without an SDK that the application has set up, spans record nothing, and the
caller's own context is sent, if it has one.
"""

from types import TracebackType
from typing import Any, Self

from penstock.errors import CancelledStreamError, PenstockError
from penstock.receiver import Receiver
from penstock.retry import Retry
from penstock.tenant import Pairs
from penstock.v1.generation_pb2 import FinishReason, Start

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True

_SCOPE = "penstock.client"
_TRACEPARENT = "traceparent"


def with_trace(metadata: Pairs) -> Pairs:
    """The metadata of a call with the current trace context; one that is in it already stays."""
    return _with_context(metadata, otel_context.get_current()) if INSTALLED else metadata


def _with_context(metadata: Pairs, context: Any) -> Pairs:
    if any(key.lower() == _TRACEPARENT for key, _ in metadata):
        return metadata
    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, context)
    return (*metadata, *headers.items())


class ClientSpan:
    """The span of one answer, over all its calls; a child of the span that is current where it is made.

    A context manager around the reading of the stream. It is not made current: who reads a stream in pieces
    would see it come and go.
    """

    def __init__(self, start: Start, receiver: Receiver) -> None:
        self._start = start
        self._receiver = receiver
        self._span: Any = None
        self._context: Any = otel_context.get_current() if INSTALLED else None

    def __enter__(self) -> Self:
        if INSTALLED:
            attributes = {"gen_ai.operation.name": operation(self._start), "gen_ai.provider.name": "penstock"}
            if self._start.model:
                attributes["gen_ai.request.model"] = self._start.model
            self._span = trace.get_tracer(_SCOPE).start_span(
                f"{operation(self._start)} {self._start.model}".rstrip(),
                self._context,
                kind=trace.SpanKind.CLIENT,
                attributes=attributes,
            )
            self._context = trace.set_span_in_context(self._span, self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is None:
            return
        if self._span.is_recording():
            self._tell(error)
        self._span.end()

    def metadata(self, metadata: Pairs) -> Pairs:
        """That of a call of this answer."""
        return _with_context(metadata, self._context) if INSTALLED else metadata

    def retrying(self, retry: Retry) -> None:
        """A call was lost, and another one will go on."""
        if self._span is not None:
            attributes = {
                "error.type": error_type(retry.error),
                "penstock.tokens_received": retry.tokens_received,
            }
            self._span.add_event("retry", attributes)

    def _tell(self, error: BaseException | None) -> None:
        receiver = self._receiver
        accepted, finished = receiver.accepted, receiver.finished
        if accepted is not None:
            self._span.set_attribute("penstock.request_id", accepted.request_id)
            self._span.set_attribute("gen_ai.response.model", accepted.model)
        self._span.set_attribute("gen_ai.usage.output_tokens", len(receiver.token_ids))
        if finished is not None:
            self._span.set_attribute("gen_ai.response.finish_reasons", (_name(finished.reason),))
            self._span.set_attribute("gen_ai.usage.input_tokens", finished.usage.prompt_tokens)
        if isinstance(error, Exception):
            self._span.set_attribute("error.type", error_type(error))
            if not isinstance(error, CancelledStreamError):
                self._span.set_status(trace.Status(trace.StatusCode.ERROR, error_type(error)))


def operation(start: Start) -> str:
    """What it is called in OpenTelemetry's conventions for generative AI."""
    return "chat" if start.WhichOneof("input") == "chat" else "text_completion"


def _name(reason: FinishReason.ValueType) -> str:
    """Such as "length"; the number of a reason that this version does not know."""
    if reason not in FinishReason.values():
        return str(reason)
    return FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()


def error_type(error: Exception) -> str:
    """The server's reason where it gave one, else the class of the error. Never its text."""
    return (error.reason if isinstance(error, PenstockError) else "") or type(error).__name__
