"""Limits, on a server whose limits are low: streams at a time, window, ack timeout."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from tests.integration.processes import SCRIPTED, ServerProcess, running_server
from tests.integration.states import idle, stalled
from tests.service.calls import GenerateCall, endless, generate, refused
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

OPTIONS = {
    "ADMISSION__ENABLED": "false",
    "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "3",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "2500",
    "STREAM_REGISTRY__BACKPRESSURE__MAX_UNACKED_CHUNKS": "3",
    "STREAM_REGISTRY__BACKPRESSURE__MAX_TOKENS_PER_CHUNK": "2",
    "STREAM_REGISTRY__BACKPRESSURE__MAX_BACKLOG_TOKENS": "4",
}
START = pb.GenerateRequest(start=endless(3))


@pytest.fixture(scope="module")
def low_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("limits") / "stderr"
    with running_server(log, OPTIONS, **SCRIPTED) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(low_limits: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(low_limits.address) as stubs:
        await idle(stubs)
        yield stubs


async def test_the_server_bounds_the_window_and_the_chunks(stubs: Stubs) -> None:
    for flow in ({}, {"max_unacked_chunks": 1000, "max_tokens_per_chunk": 1000}):
        async with GenerateCall(stubs.generation) as call:
            accepted = await call.start(endless(40, flow=flow))
            assert (accepted.max_unacked_chunks, accepted.max_tokens_per_chunk) == (3, 2)
            await call.half_close()
            assert len((await call.rest()).token_ids) == 40


async def test_one_stream_too_many_is_refused_and_a_place_is_free_at_once(stubs: Stubs) -> None:
    before = await idle(stubs)
    # Two that go on without acks, and one that will end.
    others = [GenerateCall(stubs.generation) for _ in range(2)]
    for other in others:
        await other.start(endless(50_000))
        await other.half_close()
    last = GenerateCall(stubs.generation)
    await last.start(endless(20))
    refusal = await refused(stubs.generation, START)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert refusal.retry_after_s
    status = await stubs.status()
    assert (status.streams.active, status.streams.max_active) == (3, 3)
    assert status.streams.refused == before.streams.refused + 1
    await last.half_close()
    await last.rest()
    # The client has the end of the stream, so its place is free: no waiting, no second try.
    assert len((await generate(stubs.generation, endless(3))).token_ids) == 3
    for other in others:
        other.cancel()


async def test_places_are_not_lost_when_many_come_at_once(stubs: Stubs) -> None:
    async def one() -> bool:
        async with GenerateCall(stubs.generation) as call:
            await call.send(start=endless(4))
            await call.half_close()
            try:
                await call.rest()
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
            return True

    outcomes = await asyncio.gather(*(one() for _ in range(30)))
    assert sum(outcomes) >= 3
    assert (await idle(stubs)).streams.active == 0
    assert await one()


async def test_a_reader_that_does_not_ack_is_ended_and_frees_everything(stubs: Stubs) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(200))
        await call.read_chunks(3)
        refusal = await call.refused()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ACK_TIMEOUT")
    assert "no ack for 2.5 s" in refusal.message
    assert "window 3" in refusal.message
    after = await idle(stubs)
    assert after.streams.ended.failed == before.streams.ended.failed + 1


async def test_an_ack_in_time_starts_the_ack_timeout_anew(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(200))
        await call.read_chunks(3)
        began = await stalled(stubs)
        await eventually(stubs.status, lambda status: status.uptime_s > began.uptime_s + 1.3)
        await call.ack(1)
        await call.read_chunks(4)
        again = await stalled(stubs)
        await eventually(stubs.status, lambda status: status.uptime_s > again.uptime_s + 1.3)
        await call.ack(4)
        await call.read_chunks(5)
