"""A server with tracing on: other calls work, unsampled streams make no span, no collector is no harm."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from penstock import Client
from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import WatchStatusRequest
from tests.integration.collector import Collector, collecting
from tests.integration.conftest import StartServer
from tests.integration.processes import SCRIPTED, ServerProcess, running_server
from tests.service.calls import GenerateCall, endless, refused
from tests.service.eventually import eventually
from tests.service.servers import CHANNEL_OPTIONS, Stubs, stubs_of
from tests.spans import GENERATE, Span, caller, not_recorded

LOGGED = {"LOGGING__LEVEL": "info", "LOGGING__FORMAT": "json"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("tracing") / "stderr"
    with running_server(log, LOGGED | collector.options, **SCRIPTED) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        yield stubs


async def span_of(collector: Collector, request_id: str) -> Span:
    async def look() -> list[Span]:
        return [span for span in collector.spans if span.attributes.get("penstock.request_id") == request_id]

    return (await eventually(look, bool))[0]


async def finish(stubs: Stubs, request_id: str) -> None:
    """A short stream, from beginning to end."""
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(3, request_id=request_id))
        await call.half_close()
        await call.rest()


async def test_health_works_and_is_not_traced(stubs: Stubs, collector: Collector) -> None:
    request = health_pb2.HealthCheckRequest()
    serving = health_pb2.HealthCheckResponse.SERVING
    for _ in range(2):
        watch = stubs.health.Watch(request)
        assert (await watch.read()).status == serving
        assert (await stubs.health.Check(request)).status == serving
        watch.cancel()
    await finish(stubs, "after health")
    await span_of(collector, "after health")
    assert not [span.name for span in collector.spans if "Health" in span.name]


async def test_reflection_works(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel:
        assert "penstock.v1.GenerationService" in ProtoReflectionDescriptorDatabase(channel).get_services()


async def test_watch_status_and_unary_calls_work(stubs: Stubs, server: ServerProcess) -> None:
    watch = stubs.statuses.WatchStatus(WatchStatusRequest(interval_ms=100))
    for _ in range(2):
        assert (await watch.read()).status.version
    watch.cancel()
    async with Client(server.address) as client:
        assert await client.count_tokens("one two three") == 3
        assert [model.name for model in await client.models()] == ["scripted"]
        assert (await client.status()).version


async def test_a_refused_request_is_no_fault_of_the_server(stubs: Stubs, collector: Collector) -> None:
    start = endless(3, request_id="too long", prompt="word " * 200_000)
    refusal = await refused(stubs.generation, pb.GenerateRequest(start=start))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    span = await span_of(collector, "too long")
    assert (span.attributes["error.type"], span.error) == ("INVALID_REQUEST", False)
    assert span.attributes["rpc.grpc.status_code"] == 3


async def test_the_log_of_a_stream_carries_its_ids(
    stubs: Stubs, server: ServerProcess, collector: Collector
) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(1000, request_id="logged"))
        await call.read_chunks(1)
        await call.send(cancel=pb.Cancel())
        await call.rest()
    span = await span_of(collector, "logged")
    lines = [json.loads(line) for line in server.stderr().splitlines()]
    [line] = [line for line in lines if line.get("request_id") == "logged"]
    assert line["event"] == "cancelled by the caller"
    assert (line["trace_id"], line["span_id"]) == (span.trace_id, span.span_id)
    # What belongs to no stream carries nothing of one.
    assert all("trace_id" not in line for line in lines if "request_id" not in line)


async def test_the_caller_decides_whether_a_stream_is_traced(
    server: ServerProcess, stubs: Stubs, collector: Collector
) -> None:
    with not_recorded():
        async with Client(server.address) as client:
            await client.complete("one two", max_tokens=3, request_id="not sampled")
    await finish(stubs, "sampled")
    await span_of(collector, "sampled")
    known = {span.attributes.get("penstock.request_id") for span in collector.spans}
    assert "not sampled" not in known


async def test_a_ratio_of_none_leaves_what_callers_sample(
    server_process: StartServer, collector: Collector
) -> None:
    server = server_process(collector.options | {"TELEMETRY__TRACE_SAMPLE_RATIO": "0"}, **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        for n in range(5):
            await finish(stubs, f"unsampled {n}")
    with caller() as root:
        async with Client(server.address) as client:
            await client.complete("one two", max_tokens=3)
    trace = await collector.trace_of(root)
    trace.check_whole()
    server.stop()  # What it had was sent.
    known = {str(span.attributes.get("penstock.request_id")) for span in collector.spans}
    assert not [name for name in known if name.startswith("unsampled")]


async def test_the_last_spans_are_sent_when_the_server_stops(
    server_process: StartServer, collector: Collector
) -> None:
    server = server_process(collector.options, **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        await finish(stubs, "the last one")
    server.stop()
    [span] = [s for s in collector.spans if s.attributes.get("penstock.request_id") == "the last one"]
    assert span.name == GENERATE


async def test_a_collector_that_is_away_disturbs_nobody(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens there, and nobody else can.
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        options = LOGGED | {"TELEMETRY__OTLP_ENDPOINT": endpoint}
        with running_server(tmp_path / "stderr", options, **SCRIPTED) as server:
            async with stubs_of(server.address) as stubs:
                for n in range(20):
                    await finish(stubs, f"alone {n}")

                async def warnings() -> list[dict[str, Any]]:
                    lines = [json.loads(line) for line in server.stderr().splitlines()]
                    return [line for line in lines if line["event"] == "telemetry"]

                await eventually(warnings, bool)
                for n in range(20):
                    await finish(stubs, f"still alone {n}")
            server.stop()
            assert server.wait() == 0
        lines = [json.loads(line) for line in server.stderr().splitlines()]
        assert len(lines) < 10, lines
