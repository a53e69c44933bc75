"""Which span an RPC gets, and that its handler notices nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowcontrol.reasons import Reason
from service.errors import ServiceError, abort
from service.telemetry.interceptor import AioServerInterceptor

TRACE_ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = (("traceparent", f"00-{TRACE_ID}-{PARENT}-01"),)


class Handlers(grpc.GenericRpcHandler):
    """One method for each way in which a handler is written or ends."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.bound: list[dict[str, Any]] = []
        self.asleep = asyncio.Event()

    def service(self, details: Any) -> Any:
        method = details.method.rsplit("/", 1)[-1]
        if method in ("Read", "Yield"):
            return grpc.stream_stream_rpc_method_handler(getattr(self, method))
        return grpc.unary_unary_rpc_method_handler(getattr(self, method))

    async def Answer(self, request: bytes, context: Any) -> bytes:
        self.contexts.append(context)
        self.bound.append(structlog.contextvars.get_contextvars())
        return request

    async def Refuse(self, request: bytes, context: Any) -> bytes:
        await abort(context, ServiceError(Reason.TOO_MANY_STREAMS, "full of secrets"), "named")

    async def Fault(self, request: bytes, context: Any) -> bytes:
        await abort(context, ServiceError(Reason.STEP_FAILED, "a secret"))

    async def Set(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        return b""

    async def Raise(self, request: bytes, context: Any) -> bytes:
        raise ValueError("a secret")

    async def Sleep(self, request: bytes, context: Any) -> bytes:
        self.asleep.set()
        return await asyncio.Future[bytes]()

    async def Read(self, requests: Any, context: Any) -> None:
        self.contexts.append(context)
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    async def Yield(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message


class Traced:
    """A channel to a server with the handlers; spans that have ended."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.channel: Any = None

    async def call(self, method: str, metadata: Any = CALLER) -> Any:
        return await self.channel.unary_unary(f"/test.Test/{method}")(b"x", metadata=metadata)

    @property
    def span(self) -> ReadableSpan:
        """The only one."""
        [span] = self.exporter.get_finished_spans()
        return span

    @property
    def told(self) -> tuple[object, bool]:
        """The status of the only span, and whether it is an error."""
        assert self.span.attributes is not None
        error = self.span.status.status_code is trace.StatusCode.ERROR
        return self.span.attributes["rpc.grpc.status_code"], error


@asynccontextmanager
async def traced() -> AsyncIterator[Traced]:
    traced = Traced()
    server = grpc.aio.server(interceptors=[AioServerInterceptor(traced.tracer)])
    server.add_generic_rpc_handlers((traced.handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            traced.channel = channel
            yield traced
    finally:
        await server.stop(None)


async def test_the_span_is_a_child_of_the_callers() -> None:
    async with traced() as server:
        assert await server.call("Answer") == b"x"
    span = server.span
    assert span.name == "/test.Test/Answer"
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x} {span.parent.span_id:016x}" == f"{TRACE_ID} {PARENT}"
    assert span.kind is trace.SpanKind.SERVER
    assert server.told == (0, False)


@pytest.mark.parametrize("metadata", [(), (("traceparent", "nonsense"),), (("traceparent-bin", b"\xff"),)])
async def test_without_a_context_of_the_caller_a_trace_begins(metadata: Any) -> None:
    async with traced() as server:
        await server.call("Answer", metadata)
    assert server.span.parent is None


async def test_the_log_of_a_call_carries_its_ids() -> None:
    async with traced() as server:
        await server.call("Answer")
        await server.call("Answer", (("traceparent", f"00-{TRACE_ID}-{PARENT}-00"),))
    context = server.span.get_span_context()
    assert context is not None
    ids = {"trace_id": TRACE_ID, "span_id": f"{context.span_id:016x}"}
    assert server.handlers.bound == [ids, {}]


@pytest.mark.parametrize("method", ["Read", "Yield"])
async def test_both_styles_of_a_stream(method: str) -> None:
    async with traced() as server:
        call = server.channel.stream_stream(f"/test.Test/{method}")()
        for message in (b"1", b"2"):
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert server.told == (0, False)


async def test_handlers_get_the_context_of_grpc_itself() -> None:
    async with traced() as server:
        await server.call("Answer")
        call = server.channel.stream_stream("/test.Test/Read")()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert {type(context).__module__ for context in server.handlers.contexts} == {"grpc._cython.cygrpc"}


@pytest.mark.parametrize(
    ("method", "code", "told"),
    [
        ("Refuse", grpc.StatusCode.RESOURCE_EXHAUSTED, (8, False)),
        ("Fault", grpc.StatusCode.INTERNAL, (13, True)),
        ("Set", grpc.StatusCode.NOT_FOUND, (5, False)),
        ("Raise", grpc.StatusCode.UNKNOWN, (2, True)),
    ],
)
async def test_how_a_call_fails(method: str, code: grpc.StatusCode, told: tuple[object, bool]) -> None:
    async with traced() as server:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await server.call(method)
    assert failed.value.code() is code
    assert server.told == told
    assert "secret" not in server.span.to_json()


async def test_the_reason_of_a_refusal_is_told() -> None:
    async with traced() as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await server.call("Refuse")
    attributes = server.span.attributes or {}
    assert attributes["error.type"] == "TOO_MANY_STREAMS"
    assert attributes["penstock.request_id"] == "named"


async def test_a_caller_that_goes_away() -> None:
    async with traced() as server:
        call = asyncio.ensure_future(server.call("Sleep"))
        await server.handlers.asleep.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    # The server has stopped: the handler has ended.
    assert server.told == (1, False)
