"""Health over a real channel: Check, List, Watch, and how it follows the engine."""

import grpc
import pytest
from grpc_health.v1 import health_pb2

from penstock.v1.generation_pb2 import DESCRIPTOR as GENERATION_FILE
from service.health import HealthServicer
from tests.service.drivers import scripted_engine
from tests.service.servers import LocalServer, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
GENERATION = GENERATION_FILE.services_by_name["GenerationService"].full_name
MODELS, STATUS = "penstock.v1.ModelService", "penstock.v1.StatusService"
LIMITS, FEATURES = "penstock.v1.LimitsService", "penstock.v1.FeatureService"


def asking(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def check(local: LocalServer, service: str) -> int:
    response = await local.stubs.health.Check(asking(service))
    return int(response.status)


async def next_status(watch: grpc.aio.UnaryStreamCall[object, object]) -> int:
    message = await watch.read()
    assert isinstance(message, health_pb2.HealthCheckResponse)
    return int(message.status)


async def test_every_service_begins_as_not_serving() -> None:
    servicer = HealthServicer(("", "a"))
    with pytest.raises(KeyError):
        servicer.set("b", SERVING)
    async with serving(scripted_engine(), start=False) as local:
        assert await check(local, "") == await check(local, GENERATION) == NOT_SERVING
        # These two need no model.
        assert await check(local, MODELS) == await check(local, STATUS) == SERVING


async def test_check_and_list_follow_the_engine() -> None:
    async with serving(scripted_engine()) as local:
        assert await check(local, "") == await check(local, GENERATION) == SERVING
        listed = await local.stubs.health.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
        assert set(listed.statuses) == {"", GENERATION, MODELS, STATUS, LIMITS, FEATURES}
        assert {one.status for one in listed.statuses.values()} == {SERVING}


@pytest.mark.parametrize("name", ["nobody", "x" * 100_000])
async def test_an_unknown_service_is_not_found_by_check(name: str) -> None:
    async with serving(scripted_engine()) as local:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(local, name)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch_of_an_unknown_service_says_so_and_goes_on() -> None:
    async with serving(scripted_engine()) as local:
        watch = local.stubs.health.Watch(asking("nobody"))
        assert await next_status(watch) == UNKNOWN
        assert not watch.done()
        watch.cancel()


async def test_watch_tells_changes_only() -> None:
    engine = scripted_engine()
    async with serving(engine) as local:
        watch = local.stubs.health.Watch(asking(GENERATION))
        assert await next_status(watch) == SERVING
        engine.die()
        assert await next_status(watch) == NOT_SERVING
        engine.revive()
        assert await next_status(watch) == SERVING
        watch.cancel()


async def test_a_watcher_that_leaves_takes_nothing_from_the_other() -> None:
    engine = scripted_engine()
    async with serving(engine) as local:
        leaving, staying = (local.stubs.health.Watch(asking("")) for _ in range(2))
        assert await next_status(leaving) == await next_status(staying) == SERVING
        leaving.cancel()
        assert await leaving.code() is grpc.StatusCode.CANCELLED
        for _ in range(3):
            engine.die()
            assert await next_status(staying) == NOT_SERVING
            engine.revive()
            assert await next_status(staying) == SERVING
        staying.cancel()


async def test_draining_is_not_serving_for_every_service() -> None:
    async with serving(scripted_engine()) as local:
        watches = [local.stubs.health.Watch(asking(name)) for name in ("", GENERATION, MODELS, STATUS)]
        assert [await next_status(watch) for watch in watches] == [SERVING] * 4
        await local.server.drain()
        assert [await next_status(watch) for watch in watches] == [NOT_SERVING] * 4
        for watch in watches:
            watch.cancel()
