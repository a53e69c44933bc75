"""The caller's trace goes with every call, and an answer is one span however many calls it takes."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from opentelemetry import trace

from penstock import OverloadedError
from penstock.tracing import with_trace
from tests.client.conftest import AnyClient
from tests.client.doubles import Cut, Exchange, ResumableAnswer, ScriptedServer
from tests.spans import Span, caller, not_recorded, recorded

TEXTS = [f"t{n} " for n in range(5)]


class Recorder(grpc.aio.ServerInterceptor):
    """Notes the trace contexts in the metadata of each Generate call."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        if details.method.endswith("/Generate"):
            contexts = [str(value) for key, value in details.invocation_metadata if key == "traceparent"]
            self.sent.append(contexts)
        return await continuation(details)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def interceptors(recorder: Recorder) -> list[grpc.aio.ServerInterceptor]:
    return [recorder]


def context_of(span: Span) -> str:
    """What a call below the span sends. 3: sampled, and the trace id is random."""
    return f"00-{span.trace_id}-{span.span_id}-03"


def answer_span(root: trace.Span) -> Span:
    [span] = [span for span in recorded(root) if span.name != "caller"]
    return span


async def test_an_answer_is_a_span_below_the_callers(client: AnyClient, recorder: Recorder) -> None:
    with caller() as root:
        stream = client.generate("Hello", model="tiny")
    async for _ in stream:  # Outside, as where a server streams an answer on.
        pass
    span = answer_span(root)
    assert span.name == "text_completion tiny"
    assert int(span.parent, 16) == root.get_span_context().span_id
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert not span.error
    assert recorder.sent == [[context_of(span)]]


async def test_resumed_calls_belong_to_one_trace(
    patient: AnyClient, grpc_servicer: ScriptedServer, recorder: Recorder
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(1), Cut(3, code=grpc.StatusCode.ABORTED)])
    grpc_servicer.script = answer
    with caller() as root:
        assert await patient.complete("Hello", retries=1) == answer.text
    span = answer_span(root)
    assert recorder.sent == [[context_of(span)]] * 3
    assert [(name, attributes["penstock.tokens_received"]) for name, attributes in span.events] == [
        ("retry", 1),
        ("retry", 3),
    ]


async def test_how_it_failed_is_told_without_the_text(
    client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for your secret")

    grpc_servicer.script = refuse
    with caller() as root, pytest.raises(OverloadedError):
        await client.complete("Hello")
    span = answer_span(root)
    assert span.error
    assert span.attributes["error.type"] == "OverloadedError"
    assert "secret" not in str(span)


async def test_a_stream_that_is_left_ends_its_span(client: AnyClient) -> None:
    with caller() as root:
        stream = client.generate("Hello")
        events = stream.events()
        await anext(events)
        await events.aclose()
    span = answer_span(root)
    assert not span.error


async def test_a_trace_that_the_caller_sends_itself_stays(client: AnyClient, recorder: Recorder) -> None:
    own = f"00-{'ab' * 16}-{'cd' * 8}-01"
    with caller():
        await client.complete("Hello", metadata=[("traceparent", own)])
        assert with_trace((("Traceparent", own),)) == (("Traceparent", own),)
    assert recorder.sent == [[own]]


async def test_below_a_span_that_is_not_recorded_none_is(client: AnyClient, recorder: Recorder) -> None:
    with not_recorded() as root:
        await client.complete("Hello")
    assert recorded(root) == []
    [[context]] = recorder.sent
    assert context.startswith(f"00-{root.get_span_context().trace_id:032x}-")
    assert context.endswith("-02")


PLAIN = """
import sys
sys.modules["opentelemetry"] = None
from penstock import SyncClient
from penstock import tracing
assert not tracing.INSTALLED
with SyncClient(sys.argv[1]) as client:
    print(client.complete("Hello"), client.count_tokens("Hello"))
"""


async def test_without_opentelemetry_it_works_all_the_same(grpc_addr: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLAIN, grpc_addr, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (out.decode(), process.returncode) == ("Once more 7\n", 0), err.decode()
