"""How the server ends: draining, its grace time, and the second signal."""

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import Status
from tests.integration.conftest import SHARED_OPTIONS, StartServer
from tests.integration.processes import SCRIPTED, ServerProcess
from tests.service.calls import GenerateCall, endless, refused, start
from tests.service.eventually import eventually
from tests.service.refusals import Refusal
from tests.service.servers import Stubs, stubs_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
# Far more than a scripted server makes in the time of a test.
ENDLESS = 50_000


async def ended(server: ServerProcess) -> int:
    """The exit status, while this loop goes on."""
    return await asyncio.to_thread(server.wait)


async def serving(stubs: Stubs) -> Any:
    """A health watch that has said SERVING."""
    watch = stubs.health.Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != SERVING:
        pass
    return watch


def check_draining(refusal: Refusal) -> None:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert refusal.retry_after_s


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_stream_in_flight_finishes_and_new_ones_are_refused(server_process: StartServer) -> None:
    server = server_process({**SHARED_OPTIONS, "SERVER__DRAIN_GRACE_MS": "60000"})
    async with stubs_of(server.address) as stubs:
        watch = await serving(stubs)
        status: Status = await stubs.status()
        async with GenerateCall(stubs.generation) as call:
            await call.start(endless(40, flow={"max_unacked_chunks": 4}))
            await call.read_chunks(2)
            server.signal(signal.SIGTERM)
            assert (await watch.read()).status == NOT_SERVING
            check_draining(await refused(stubs.generation, pb.GenerateRequest(start=start())))
            assert (await stubs.status()).draining
            await call.half_close()
            assert len((await call.rest()).token_ids) == 40
        watch.cancel()
        assert await ended(server) == 0
    assert not process_exists(status.workers[0].pid)
    assert server.stderr() == ""


@SIGNALS
async def test_streams_that_outlast_the_grace_time_are_told_so(
    server_process: StartServer, number: signal.Signals
) -> None:
    options = {
        "SERVER__DRAIN_GRACE_MS": "300",
        # On a busy machine the signal may come late.
        "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
    }
    server = server_process(options, **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        (await serving(stubs)).cancel()
        streaming, stalled = GenerateCall(stubs.generation), GenerateCall(stubs.generation)
        await streaming.start(endless(ENDLESS))
        await streaming.half_close()
        await stalled.start(endless(ENDLESS, flow={"max_unacked_chunks": 1}))
        await eventually(stubs.status, lambda status: status.streams.stalled == 1)
        server.signal(number)
        for call in (streaming, stalled):
            check_draining(await call.refused())
    assert await ended(server) == 0


async def test_a_second_signal_ends_the_grace_time(server_process: StartServer) -> None:
    server = server_process({"SERVER__DRAIN_GRACE_MS": "3600000"}, **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        (await serving(stubs)).cancel()
        async with GenerateCall(stubs.generation) as call:
            await call.start(endless(ENDLESS))
            await call.half_close()
            server.signal(signal.SIGINT)
            await eventually(stubs.status, lambda status: status.draining)
            assert server.running
            server.signal(signal.SIGINT)
            check_draining(await call.refused())
    assert await ended(server) == 0


async def test_an_idle_server_ends_at_once_even_when_it_is_watched(server_process: StartServer) -> None:
    server = server_process({"SERVER__DRAIN_GRACE_MS": "3600000"}, **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        watch = await serving(stubs)
        server.signal(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        assert await ended(server) == 0
    assert server.stderr() == ""


async def test_a_signal_while_the_model_is_loading(server_process: StartServer) -> None:
    server = server_process({"ENGINE__CPU_BLAS": "none"})
    async with stubs_of(server.address) as stubs:
        response = await stubs.health.Check(health_pb2.HealthCheckRequest())
        assert response.status == NOT_SERVING
        server.signal(signal.SIGTERM)
        assert await ended(server) == 0
    assert server.stderr() == ""
