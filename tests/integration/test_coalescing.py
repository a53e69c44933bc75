"""Equal requests on the real server with engine.coalesce_identical: one row, eight readers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from penstock.tenant import tenant_metadata
from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import Status
from tests.integration.processes import ServerProcess, running_server
from tests.integration.states import idle
from tests.service.calls import GenerateCall, endless, generate
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

TOKENS = 120
OPTIONS = {
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__HEARTBEAT_INTERVAL_MS": "20",
    "ENGINE__STUCK_AFTER_MS": "30000",
    "ENGINE__KILL_AFTER_MS": "60000",
    "ENGINE__COALESCE_IDENTICAL": "true",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("coalescing") / "stderr", OPTIONS) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(own_server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(own_server.address) as stubs:
        yield stubs


async def rows_of(stubs: Stubs, starts: list[pb.Start], tenants: list[str | None]) -> int:
    """How many streams the worker is given for these, all of them in flight."""
    await idle(stubs)
    calls = [GenerateCall(stubs.generation, metadata=tenant_metadata(tenant)) for tenant in tenants]
    for call, start in zip(calls, starts, strict=True):
        await call.start(start)
    status = await stubs.status()
    for call in calls:
        call.cancel()
    return status.workers[0].streams


def eight_stalled_on_one_row(status: Status) -> bool:
    worker = status.workers[0]
    return (status.streams.stalled, worker.running_rows, worker.paused_rows) == (8, 0, 1)


def held(**fields: Any) -> pb.Start:
    """A stream that stands still after one chunk."""
    return endless(TOKENS, flow={"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}, **fields)


async def read_slowly(call: GenerateCall) -> None:
    """An ack for each chunk, once it was read."""
    while await call.read() is not None:
        if not call.answer.finished:
            await call.ack(len(call.answer.chunks))


async def test_eight_equal_requests_are_computed_once_also_with_a_slow_reader(stubs: Stubs) -> None:
    alone = await generate(stubs.generation, endless(TOKENS))
    before = (await idle(stubs)).workers[0]
    calls = [GenerateCall(stubs.generation) for _ in range(8)]
    for call in calls:
        await call.start(held())
    await eventually(stubs.status, eight_stalled_on_one_row)
    slow, *others = calls
    for call in others:
        await call.half_close()
    await asyncio.gather(*(call.rest() for call in others))
    assert not slow.answer.finished
    await slow.read()
    await slow.ack(1)
    await read_slowly(slow)
    after = (await idle(stubs)).workers[0]
    assert {call.answer.text for call in calls} == {alone.text}
    assert all(call.answer.token_ids == alone.token_ids for call in calls)
    assert after.generated_tokens - before.generated_tokens == TOKENS
    # A pause is on its way to the worker while it makes a step; nothing comes of that one.
    assert TOKENS <= after.decode_steps - before.decode_steps < 2 * TOKENS


async def test_equal_seeds_share_and_others_do_not(stubs: Stubs) -> None:
    sampling = [{"temperature": 1.0, "seed": seed} for seed in (1, 2, 1)]
    starts = [held(sampling=each) for each in sampling]
    assert await rows_of(stubs, starts, [None] * 3) == 2
    drawn = [held(sampling={"temperature": 1.0}) for _ in range(3)]
    assert await rows_of(stubs, drawn, [None] * 3) == 3


async def test_tenants_do_not_share(stubs: Stubs) -> None:
    assert await rows_of(stubs, [held()] * 4, ["a", "b", "a", None]) == 3
    salted = [held(cache_salt=salt) for salt in ("x", "y", "x")]
    assert await rows_of(stubs, salted, ["a"] * 3) == 2
