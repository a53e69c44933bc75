"""Whatever way a caller leaves, its row leaves the batch within one step and its place is free."""

import asyncio
import subprocess
import sys

import grpc
import pytest

from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import Status
from tests.integration.processes import ROOT
from tests.integration.states import idle, stalled, stands_still
from tests.service.calls import GenerateCall, endless, generate
from tests.service.servers import Stubs

LONG = 900
WINDOW_5 = {"max_unacked_chunks": 5, "max_tokens_per_chunk": 1}

# A caller that reads as fast as it can and never sends an ack.
CLIENT = """
import sys, grpc
from penstock.v1 import generation_pb2 as pb, generation_pb2_grpc
start = pb.Start.FromString(bytes.fromhex(sys.argv[2]))
with grpc.insecure_channel(sys.argv[1]) as channel:
    for message in generation_pb2_grpc.GenerationServiceStub(channel).Generate(
        iter([pb.GenerateRequest(start=start)])
    ):
        print(message.WhichOneof("message"), flush=True)
"""


async def freed(stubs: Stubs, before: Status) -> Status:
    """The status once everything is free again; one stream was cancelled since `before`."""
    after = await idle(stubs)
    still = await stands_still(stubs)
    assert still.workers[0].decode_steps < before.workers[0].decode_steps + LONG
    assert after.streams.ended.cancelled == before.streams.ended.cancelled + 1
    assert after.streams.ended.finished == before.streams.ended.finished
    assert still.workers[0].max_cancel_delay_steps <= 1
    assert still.workers[0].kv_bytes == 0
    return still


@pytest.mark.parametrize("flow", [{}, WINDOW_5], ids=["streaming", "stalled"])
async def test_cancel_is_answered_with_finished(stubs: Stubs, flow: dict[str, int]) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(LONG, flow=flow))
        await call.read_chunks(5)
        if flow:
            await stalled(stubs)
        await call.send(cancel=pb.Cancel(reason="enough"))
        answer = await call.rest()
    assert answer.end.reason == pb.FINISH_REASON_CANCELLED
    assert answer.end.usage.prompt_tokens > 0
    await freed(stubs, before)


async def test_cancel_right_after_start(stubs: Stubs) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(LONG))
        await call.send(cancel=pb.Cancel())
        answer = await call.rest()
    assert answer.end.reason == pb.FINISH_REASON_CANCELLED
    await freed(stubs, before)


async def test_cancel_while_the_prompt_is_computed(stubs: Stubs) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(100, tokens={"ids": [5] * 900}))
        await call.send(cancel=pb.Cancel())
        answer = await call.rest()
    assert answer.end.reason == pb.FINISH_REASON_CANCELLED
    assert not answer.chunks
    await freed(stubs, before)


@pytest.mark.parametrize("flow", [{}, WINDOW_5], ids=["streaming", "stalled"])
async def test_a_call_that_is_cancelled(stubs: Stubs, flow: dict[str, int]) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(LONG, flow=flow))
        await call.read_chunks(5)
        if flow:
            await stalled(stubs)
        call.cancel()
    await freed(stubs, before)


@pytest.mark.parametrize("flow", [{}, WINDOW_5], ids=["streaming", "stalled"])
async def test_a_deadline_that_passes(stubs: Stubs, flow: dict[str, int]) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation, timeout_s=1.0) as call:
        await call.start(endless(LONG, flow=flow))
        if not flow:
            await call.half_close()
        refusal = await call.refused()
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await freed(stubs, before)


async def test_a_client_process_that_is_killed(stubs: Stubs, grpc_addr: str) -> None:
    before = await idle(stubs)
    start = endless(LONG).SerializeToString().hex()
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, grpc_addr, start, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert client.stdout is not None
        while await client.stdout.readline() != b"chunk\n":
            assert client.returncode is None, "the client ended by itself"
    finally:
        client.kill()
        await client.wait()
    await freed(stubs, before)


async def test_a_cancelled_row_takes_nothing_from_its_neighbours(stubs: Stubs) -> None:
    alone = await generate(stubs.generation, endless(60))
    async with GenerateCall(stubs.generation) as leaving, GenerateCall(stubs.generation) as staying:
        await leaving.start(endless(LONG))
        await staying.start(endless(60))
        await staying.half_close()
        await leaving.read_chunks(10)
        leaving.cancel()
        answer = await staying.rest()
    assert answer.token_ids == alone.token_ids
    await idle(stubs)
