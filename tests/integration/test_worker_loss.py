"""A worker that is killed, and one that is stopped, on a server of their own; and who maps MLX."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from penstock.v1 import generation_pb2 as pb
from penstock.v1 import model_pb2, status_pb2
from tests.integration.processes import ServerProcess, running_server
from tests.integration.states import idle
from tests.service.calls import GenerateCall, endless, generate, refused, start
from tests.service.servers import Stubs, stubs_of

OPTIONS = {
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__HEARTBEAT_INTERVAL_MS": "50",
    "ENGINE__STUCK_AFTER_MS": "2000",
    "ENGINE__KILL_AFTER_MS": "60000",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GENERATION = "penstock.v1.GenerationService"
START = pb.GenerateRequest(start=start())


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("loss") / "stderr", OPTIONS) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(own_server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(own_server.address) as stubs:
        yield stubs


async def watched(stubs: Stubs, service: str = GENERATION) -> Any:
    """A Watch that has said SERVING."""
    watch = stubs.health.Watch(health_pb2.HealthCheckRequest(service=service))
    while (await watch.read()).status != SERVING:
        pass
    return watch


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
async def test_only_the_worker_maps_mlx(stubs: Stubs, own_server: ServerProcess) -> None:
    await generate(stubs.generation, endless(3))
    worker = (await stubs.status()).workers[0]
    assert worker.rss_bytes > 10 * 2**20
    assert "libmlx" in mapped(worker.pid)
    assert "libmlx" not in mapped(own_server.pid)
    assert "numpy" not in mapped(own_server.pid)


async def test_a_killed_worker_is_replaced_and_its_streams_go_on(stubs: Stubs) -> None:
    before = await stubs.status()
    streams = [GenerateCall(stubs.generation) for _ in range(3)]
    for stream in streams:
        await stream.start(endless(200, flow={"max_unacked_chunks": 2}))
    await streams[0].read_chunks(2)
    watches = [await watched(stubs, service) for service in ("", GENERATION)]
    leaving = await watched(stubs)
    leaving.cancel()
    assert await leaving.code() is grpc.StatusCode.CANCELLED
    other = await watched(stubs, "penstock.v1.StatusService")
    models_watch = asyncio.create_task(other.read())
    os.kill(before.workers[0].pid, signal.SIGKILL)
    for watch in watches:
        assert (await watch.read()).status == NOT_SERVING
    await refused_while_loading(stubs)
    for watch in watches:
        assert (await watch.read()).status == SERVING
        watch.cancel()
    # The services that need no model stayed as they were.
    assert not models_watch.done()
    models_watch.cancel()
    for stream in streams:
        await stream.half_close()
        answer = await stream.rest()
        assert len(answer.token_ids) == 200
        assert answer.token_ids == streams[0].answer.token_ids
    after = await idle(stubs)
    assert after.workers[0].restarts == before.workers[0].restarts + 1
    assert after.workers[0].pid not in (0, before.workers[0].pid)
    assert after.failovers == before.failovers + 3
    # The one that came while the model was loading was not admitted.
    assert after.streams.ended.failed == before.streams.ended.failed
    assert (await generate(stubs.generation, endless(10))).text.strip()


async def refused_while_loading(stubs: Stubs) -> None:
    status = await stubs.status()
    assert status.workers[0].state in (status_pb2.WORKER_STATE_DEAD, status_pb2.WORKER_STATE_STARTING)
    assert status.models[0].state == model_pb2.MODEL_STATE_LOADING
    refusal = await refused(stubs.generation, START)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
    assert refusal.retry_after_s
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.generation.CountTokens(pb.CountTokensRequest(prompt="x"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stopped_worker_is_not_serving_and_serves_again_when_it_goes_on(stubs: Stubs) -> None:
    watch = await watched(stubs)
    pid = (await stubs.status()).workers[0].pid
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(100))
        os.kill(pid, signal.SIGSTOP)
        try:
            assert (await watch.read()).status == NOT_SERVING
            # The server itself is not stuck: it answers well within the time of a probe.
            response = await stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            assert response.status == NOT_SERVING
            status = await stubs.status()
            assert status.workers[0].state == status_pb2.WORKER_STATE_SUSPECT
            assert status.models[0].state == model_pb2.MODEL_STATE_STUCK
            refusal = await refused(stubs.generation, START)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_STUCK")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await watch.read()).status == SERVING
        watch.cancel()
        # The stream that was in flight goes on.
        await call.half_close()
        assert len((await call.rest()).token_ids) == 100
    assert (await stubs.status()).workers[0].pid == pid


async def test_check_and_list_per_service(stubs: Stubs) -> None:
    await watched(stubs)
    listed = await stubs.health.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
    assert set(listed.statuses) == {
        "",
        "penstock.v1.FeatureService",
        GENERATION,
        "penstock.v1.LimitsService",
        "penstock.v1.ModelService",
        "penstock.v1.StatusService",
    }
    for service in listed.statuses:
        response = await stubs.health.Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    unknown = stubs.health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()
