"""A server that is told to stop while requests wait: they go on, newcomers do not."""

import asyncio
import signal

import grpc
from grpc_health.v1 import health_pb2

from tests.integration.admission_calls import (
    TenantCall,
    fixed_limit,
    holding,
    queued,
    refusal_of,
    turned_away,
    waiting,
)
from tests.integration.conftest import StartServer
from tests.integration.processes import SCRIPTED, ServerProcess
from tests.service.calls import endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

MAX_RETRY_S = 30.0


async def is_serving(stubs: Stubs) -> None:
    watch = stubs.health.Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
        pass
    watch.cancel()


async def is_told_to_stop(stubs: Stubs, server: ServerProcess) -> None:
    server.signal(signal.SIGTERM)
    await eventually(stubs.status, lambda status: status.draining)


async def test_who_waits_is_answered_within_the_grace_time(server_process: StartServer) -> None:
    server = server_process(fixed_limit(1, SERVER__DRAIN_GRACE_MS="60000"), **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        await is_serving(stubs)
        holder = await holding(stubs)
        calls = [await waiting(stubs, endless(5), tenant) for tenant in ("a", "b", "a")]
        await is_told_to_stop(stubs, server)
        for tenant in (None, "a"):
            refusal = await turned_away(stubs, endless(3), tenant)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            # Another replica may take it soon.
            assert refusal.retry_after_s is not None
            assert 0 < refusal.retry_after_s < MAX_RETRY_S
        status = await queued(stubs, 3)
        assert status.admission.refused == {"DRAINING": 2}
        assert server.running
        await holder.let_go()
        for answer in await asyncio.gather(*(call.rest() for call in calls)):
            assert answer.token_ids == [1, 2, 3, 4, 5]
    assert await asyncio.to_thread(server.wait) == 0
    assert server.stderr() == ""


async def test_who_still_waits_after_the_grace_time_is_told_so(server_process: StartServer) -> None:
    server = server_process(fixed_limit(1, SERVER__DRAIN_GRACE_MS="300"), **SCRIPTED)
    async with stubs_of(server.address) as stubs:
        await is_serving(stubs)
        calls: list[TenantCall] = [await holding(stubs)]
        calls += [await waiting(stubs, endless(5)) for _ in range(2)]
        await is_told_to_stop(stubs, server)
        for call in calls:
            refusal = await refusal_of(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert refusal.retry_after_s
        assert all(not call.answer.chunks for call in calls[1:])
    assert await asyncio.to_thread(server.wait) == 0
