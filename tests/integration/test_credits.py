"""Credits on the real server: a reader that does not ack costs no steps, and loses nothing."""

import asyncio
from typing import Any

import grpc
import pytest

from penstock.v1 import generation_pb2 as pb
from tests.integration.states import idle, stalled
from tests.service.calls import GenerateCall, endless, generate
from tests.service.servers import Stubs

TOKENS = 160


def windowed(window: int, tokens: int = TOKENS) -> pb.Start:
    """A start with one token in each chunk; window 0: the server's."""
    return endless(tokens, flow={"max_unacked_chunks": window, "max_tokens_per_chunk": 1})


async def no_message_comes(stubs: Stubs, call: GenerateCall) -> "asyncio.Task[Any]":
    """A read that is still waiting once the stream is stalled."""
    read = asyncio.create_task(call.read())
    await stalled(stubs)
    assert not read.done()
    return read


@pytest.mark.parametrize(("asked", "window"), [(0, 100), (5, 5)])
async def test_a_client_that_never_acks_gets_exactly_the_window(
    stubs: Stubs, asked: int, window: int
) -> None:
    before = await idle(stubs)
    async with GenerateCall(stubs.generation) as call:
        accepted = await call.start(windowed(asked))
        assert accepted.max_unacked_chunks == window
        await call.read_chunks(window)
        read = await no_message_comes(stubs, call)
        # Another stream goes on beside it, and its steps are the only ones.
        steps = (await stalled(stubs)).workers[0].decode_steps
        # One chunk waits, and the row may have made one more step before it was parked.
        assert window < steps - before.workers[0].decode_steps <= window + 2
        beside = await generate(stubs.generation, endless(20))
        assert len(beside.token_ids) == 20
        after = await stalled(stubs)
        assert after.workers[0].decode_steps == steps + 20
        assert after.workers[0].kv_bytes > 0
        assert not read.done()
        read.cancel()


async def test_after_an_ack_of_k_exactly_k_more_come_and_after_the_half_close_all(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(windowed(5))
        await call.read_chunks(5)
        read = await no_message_comes(stubs, call)
        for acked in (1, 4, 5, 10):
            await call.ack(acked)
            await read
            await call.read_chunks(acked + 5)
            read = await no_message_comes(stubs, call)
            assert len(call.answer.chunks) == acked + 5
        await call.half_close()
        await read
        answer = await call.rest()
    assert len(answer.token_ids) == TOKENS
    assert answer.end.timing.stalled_ms > 0
    free = await generate(stubs.generation, endless(TOKENS))
    assert answer.token_ids == free.token_ids
    assert answer.text == free.text


async def test_a_client_that_stalled_and_then_acks_each_chunk_gets_everything(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(windowed(2, tokens=25))
        await call.read_chunks(2)
        await stalled(stubs)
        # Ack 23 is the last that the server needs: a later one may meet the end of the call, which
        # costs a grpc.aio client the status.
        for seq in range(1, 24):
            await call.read_chunks(seq)
            await call.ack(seq)
        answer = await call.rest()
    assert len(answer.token_ids) == 25


async def test_repeated_and_old_acks_are_harmless(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(windowed(4, tokens=40))
        await call.read_chunks(4)
        for seq in (2, 2, 0, 1, 2):
            await call.ack(seq)
        await call.read_chunks(6)
        read = await no_message_comes(stubs, call)
        assert len(call.answer.chunks) == 6
        await call.half_close()
        await read
        assert len((await call.rest()).token_ids) == 40


async def test_tokens_that_wait_for_credit_share_chunks(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(60, flow={"max_unacked_chunks": 1}))
        await call.read_chunks(1)
        # The last chunk is not acked: an ack that crosses the end costs a grpc.aio client the status.
        while len(call.answer.token_ids) < 60:
            await stalled(stubs) if len(call.answer.token_ids) < 40 else None
            await call.ack(len(call.answer.chunks))
            await call.read()
        answer = await call.rest()
    sizes = [len(chunk.token_ids) for chunk in answer.chunks]
    assert sizes[0] == 1
    assert 16 in sizes
    assert sum(sizes) == 60


async def test_an_ack_of_the_future_ends_the_stream(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(windowed(5))
        await call.read_chunks(5)
        await stalled(stubs)
        await call.ack(6)
        refusal = await call.refused()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ACK_BEYOND_SENT")
    assert "6" in refusal.message
    await idle(stubs)


async def test_finished_needs_no_credit(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(windowed(5, tokens=5))
        answer = await call.rest()
    assert len(answer.chunks) == 5
