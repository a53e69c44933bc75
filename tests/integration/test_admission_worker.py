"""Admission in front of the embedded model: its KV cache, prompts in pieces, and the loss of its worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from penstock.v1 import status_pb2
from tests.integration.admission_calls import (
    TenantCall,
    at_rest,
    fixed_limit,
    held,
    holding,
    queued,
    turned_away,
    waiting,
)
from tests.integration.processes import ServerProcess, running_server
from tests.integration.states import idle
from tests.integration.tokens import used
from tests.service.calls import GenerateCall, endless, generate
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

LIMIT = 2
# Of the embedded model. Streams in flight may keep KV_TOKENS together.
KV_BYTES_PER_TOKEN = 2048
KV_TOKENS = 512
CONTEXT_TOKENS = 1024
GONE = (status_pb2.WORKER_STATE_DEAD, status_pb2.WORKER_STATE_STARTING)
STORY = "Once upon a time Zoë found a \N{FOX FACE} behind the garden gate. " * 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = fixed_limit(
        LIMIT,
        ENGINE__CPU_BLAS="none",
        ENGINE__MAX_CONTEXT_TOKENS=str(CONTEXT_TOKENS),
        ENGINE__HEARTBEAT_INTERVAL_MS="20",
        ENGINE__STUCK_AFTER_MS="30000",
        ENGINE__KILL_AFTER_MS="60000",
        ADMISSION__MAX_KV_BYTES=str(KV_TOKENS * KV_BYTES_PER_TOKEN),
    )
    with running_server(tmp_path_factory.mktemp("worker") / "stderr", options) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await at_rest(stubs)
        yield stubs


async def in_pieces(stubs: Stubs) -> GenerateCall:
    """A call that waits, whose prompt is all sent."""
    before = (await stubs.status()).admission.limits.queued
    call = GenerateCall(stubs.generation)
    await call.start(endless(20, prompt_parts={}))
    for begin in range(0, len(STORY), 100):
        await call.send(prompt_part=pb.PromptPart(text=STORY[begin : begin + 100]))
    await call.send(prompt_part=pb.PromptPart(last=True))
    await call.half_close()
    status = await queued(stubs, before + 1)
    assert status.workers[0].waiting_rows == 0
    return call


async def test_pieces_of_a_prompt_that_come_while_it_waits_give_what_one_piece_gives(stubs: Stubs) -> None:
    holders = [await holding(stubs) for _ in range(LIMIT)]
    call = await in_pieces(stubs)
    for holder in holders:
        await holder.let_go()
    pieces = await call.rest()
    whole = await generate(stubs.generation, endless(20, prompt=STORY))
    assert pieces.token_ids == whole.token_ids
    assert pieces.text == whole.text
    assert used(pieces.end) == used(whole.end)


async def test_a_stream_whose_kv_cache_is_larger_than_all_may_be(stubs: Stubs) -> None:
    refusal = await turned_away(stubs, endless(3, tokens={"ids": [5] * (KV_TOKENS + 1)}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_EXHAUSTED")
    assert refusal.retry_after_s
    assert not refusal.quotas


async def test_a_stream_waits_for_the_memory_of_another(stubs: Stubs) -> None:
    long_prompt = {"ids": [5] * (KV_TOKENS // 2)}
    async with TenantCall(stubs.generation) as holder:
        await holder.start(held(tokens=long_prompt))
        await holder.read_chunks(1)
        call = await waiting(stubs, endless(3, tokens=long_prompt))
        estimates = (await stubs.status()).admission.estimates
        assert estimates.max_kv_bytes / 2 < estimates.kv_bytes <= estimates.max_kv_bytes
        # There is room for a short one of another tenant, and it need not wait.
        async with TenantCall(stubs.generation, "short") as short:
            await short.start(endless(3))
            await short.half_close()
            assert len((await short.rest()).token_ids) == 3
        await queued(stubs, 1)
        await holder.let_go()
        assert len((await call.rest()).token_ids) == 3


async def test_who_waits_is_kept_when_the_worker_is_lost(stubs: Stubs) -> None:
    before = await stubs.status()
    expected = await generate(stubs.generation, endless(20, prompt=STORY))
    holders = [await holding(stubs) for _ in range(LIMIT)]
    calls: list[GenerateCall] = [await waiting(stubs, endless(20, prompt=STORY)) for _ in range(3)]
    calls.append(await in_pieces(stubs))
    os.kill(before.workers[0].pid, signal.SIGKILL)
    lost = await eventually(stubs.status, lambda status: status.workers[0].state in GONE)
    limits = lost.admission.limits
    # Those that have a permit keep it: their streams go on when the worker is back.
    assert (limits.in_flight, limits.queued) == (LIMIT, 4)
    refusal = await turned_away(stubs, endless(3))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
    for holder in holders:
        await holder.let_go()
    for answer in await asyncio.gather(*(call.rest() for call in calls)):
        assert answer.text == expected.text
        assert used(answer.end) == used(expected.end)
        assert answer.end.timing.admission_ms > 100
    after = await idle(stubs)
    assert after.workers[0].restarts == before.workers[0].restarts + 1
    assert after.admission.refused == before.admission.refused
