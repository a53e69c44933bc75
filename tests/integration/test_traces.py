"""Traces from a Python client through the server and its workers and back, in a real collector."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from penstock import Client, SyncClient
from penstock.tracing import with_trace
from penstock.v1 import generation_pb2 as pb
from tests.integration.collector import Collector, collecting
from tests.integration.processes import ServerProcess, running_server
from tests.integration.states import whole
from tests.service.calls import GenerateCall, endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of
from tests.spans import Trace, caller

PROMPT = "Once upon a time there was Rumpelstiltskin"
OPTIONS = {
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__WORKERS": "2",
    "ENGINE__HEARTBEAT_INTERVAL_MS": "50",
    "ENGINE__STUCK_AFTER_MS": "30000",
    "ENGINE__KILL_AFTER_MS": "60000",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
}
ENDLESS: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("traces") / "stderr"
    with running_server(log, OPTIONS | collector.options) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await whole(stubs)
        yield stubs


def check_stream(trace: Trace, *stages: str) -> None:
    """The trace is whole, and the stream's span has exactly these children besides those of workers."""
    trace.check_whole()
    client, stream = trace.one("text_completion"), trace.stream
    assert client.parent == trace.one("caller").span_id
    assert stream.parent == client.span_id
    children = [span for span in trace.spans if span.parent == stream.span_id]
    assert {span.name for span in children} == {"worker", *stages}
    for span in children:
        assert stream.start_ns <= span.start_ns <= span.end_ns <= stream.end_ns, span


async def test_a_stream_of_the_asyncio_client(
    server: ServerProcess, stubs: Stubs, collector: Collector
) -> None:
    pids = {worker.index: worker.pid for worker in (await stubs.status()).workers}
    with caller() as root:
        async with Client(server.address, tenant="acme") as client:
            stream = client.generate(PROMPT, max_tokens=20, request_id="named", priority="bulk", **ENDLESS)
            async for _ in stream:
                pass
    trace = await collector.trace_of(root)
    check_stream(trace, "queue", "tokenise", "prefill", "decode")
    assert trace.one("prefill").end_ns == trace.one("decode").start_ns
    usage = stream.finished.usage
    expected = {
        "rpc.grpc.status_code": 0,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": stream.accepted.model,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": 20,
        "penstock.request_id": "named",
        "penstock.tenant": "acme",
        "penstock.class": "bulk",
        "penstock.stalls": 0,
    }
    assert {key: trace.stream.attributes.get(key) for key in expected} == expected
    worker = trace.one("worker").attributes
    assert pids[worker["worker"]] == worker["pid"]
    assert trace.one("text_completion").attributes["gen_ai.usage.output_tokens"] == 20
    sent = b"".join(request.SerializeToString() for request in collector.requests)
    assert b"named" in sent
    assert b"Rumpelstiltskin" not in sent
    assert stream.text.encode() not in sent


async def test_a_stream_of_the_plain_client(server: ServerProcess, collector: Collector) -> None:
    with caller() as root, SyncClient(server.address) as client:
        client.complete(PROMPT, max_tokens=5, **ENDLESS)
    check_stream(await collector.trace_of(root), "queue", "tokenise", "prefill", "decode")


async def test_a_call_of_another_method_belongs_to_the_callers_trace(
    server: ServerProcess, collector: Collector
) -> None:
    method = "/penstock.v1.GenerationService/CountTokens"
    with caller() as root:
        async with Client(server.address) as client:
            await client.count_tokens(PROMPT)
    trace = await collector.trace_of(root, holds=lambda trace: bool(trace.named(method)))
    trace.check_whole()
    assert trace.one(method).parent == trace.one("caller").span_id


async def test_a_stream_that_its_caller_cancels(server: ServerProcess, collector: Collector) -> None:
    with caller() as root:
        async with Client(server.address) as client:
            stream = client.generate(PROMPT, max_tokens=200, max_unacked_chunks=2, **ENDLESS)
            async for _ in stream:
                await stream.cancel()
    trace = await collector.trace_of(root)
    trace.check_whole()
    assert trace.stream.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert trace.stream.attributes["penstock.cause"] == "client"
    assert trace.stream.attributes["rpc.grpc.status_code"] == 0
    assert {"queue", "prefill", "decode", "worker"} <= {span.name for span in trace.spans}
    assert not any(span.error for span in trace.spans)


async def test_a_stream_whose_caller_goes_away(server: ServerProcess, collector: Collector) -> None:
    with caller() as root:
        async with Client(server.address) as client:
            stream = client.generate(PROMPT, max_tokens=200, max_unacked_chunks=2, **ENDLESS)
            async with stream:
                await anext(aiter(stream))
    trace = await collector.trace_of(root)
    assert trace.stream.attributes["rpc.grpc.status_code"] == 1
    assert trace.stream.attributes["penstock.cause"] == "client"
    assert not trace.stream.error


async def test_a_stream_that_stalls_is_parked_and_goes_on(
    server: ServerProcess, stubs: Stubs, collector: Collector
) -> None:
    async def paused_rows() -> int:
        return sum(worker.paused_rows for worker in (await stubs.status()).workers)

    with caller() as root:
        async with Client(server.address) as client:
            options = {"max_unacked_chunks": 1, "max_tokens_per_chunk": 1, **ENDLESS}
            stream = client.generate(PROMPT, max_tokens=30, **options)
            waited = False
            async for _ in stream:
                if not waited:
                    waited = bool(await eventually(paused_rows, bool))
    trace = await collector.trace_of(root)
    check_stream(trace, "queue", "tokenise", "prefill", "decode", "stalled")
    names = trace.stream.event_names
    assert names[:2] == ["park", "resume"]
    assert set(names) == {"park", "resume"}
    assert trace.stream.attributes["penstock.stalls"] == len(trace.named("stalled"))
    assert trace.stream.attributes["penstock.stalled_s"] > 0


async def test_a_stream_that_fails_over_has_two_workers(
    server: ServerProcess, stubs: Stubs, collector: Collector
) -> None:
    with caller() as root:
        async with Client(server.address) as client:
            stream = client.generate(PROMPT, max_tokens=120, max_unacked_chunks=4, **ENDLESS)
            killed = 0
            async for _ in stream:
                if not killed and len(stream.token_ids) >= 20:
                    [killed] = [each.pid for each in (await stubs.status()).workers if each.streams]
                    os.kill(killed, signal.SIGKILL)
            assert stream.resumes == 0
    trace = await collector.trace_of(root)
    trace.check_whole()
    first, second = sorted(trace.named("worker"), key=lambda span: span.start_ns)
    assert first.attributes["pid"] == killed
    assert second.attributes["pid"] != killed
    assert first.end_ns <= second.start_ns
    assert trace.stream.event_names.count("failover") == 1
    assert trace.stream.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert not trace.stream.error


async def test_a_stream_that_continues_another(
    server: ServerProcess, stubs: Stubs, collector: Collector
) -> None:
    async with Client(server.address) as client:
        stream = client.generate(PROMPT, max_tokens=5, **ENDLESS)
        async for _ in stream:
            pass
    resume = pb.Resume(token_ids=stream.token_ids, last_seq=5)
    message = endless(9, prompt=PROMPT, resume=resume)
    with caller() as root:
        metadata = with_trace(())
    async with GenerateCall(stubs.generation, metadata=metadata) as call:
        call.answer.resumed_ids, call.answer.last_seq = list(stream.token_ids), 5
        await call.start(message)
        await call.half_close()
        await call.rest()
    trace = await collector.trace_of(root)
    trace.check_whole()
    assert trace.stream.events == [("resumed stream", {"tokens": 5})]
    assert trace.stream.attributes["gen_ai.usage.output_tokens"] == 4
