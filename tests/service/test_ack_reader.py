"""The task that reads acks ends with its call. grpc.aio leaks memory when a read is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import GenerateCall, endless
from tests.service.drivers import scripted_engine
from tests.service.eventually import eventually
from tests.service.servers import serving


def readers() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "ack reader"]


async def waits_in(task: asyncio.Task[object]) -> str:
    """The function that the task's own one awaits."""
    coroutine: Any = task.get_coro()
    return getattr(coroutine.cr_await, "__name__", "")


async def read_to_the_end(call: GenerateCall) -> None:
    await call.rest()


async def break_the_contract(call: GenerateCall) -> None:
    await call.ack(1000)
    assert (await call.refused()).reason == "ACK_BEYOND_SENT"


async def cancel(call: GenerateCall) -> None:
    await call.send(cancel={})
    await call.rest()


async def leave(call: GenerateCall) -> None:
    call.cancel()


@pytest.mark.parametrize("end", [read_to_the_end, break_the_contract, cancel, leave])
async def test_no_read_is_cancelled(end: Callable[[GenerateCall], Awaitable[None]]) -> None:
    """However the stream ends, though the caller does not half-close."""
    engine = scripted_engine(step_s=0.005)
    async with serving(engine) as server, GenerateCall(server.stubs.generation) as call:
        await call.start(endless(50))
        await call.read_chunks(1)
        (reader,) = readers()
        await end(call)
        await eventually(server.stubs.status, lambda status: not status.streams.active)
        await reader
        assert not reader.cancelled()
        assert not readers()


async def test_a_reader_that_waits_for_room_ends_with_its_stream() -> None:
    """Who waits for a permit may send 256 KiB of its prompt; the reader takes no more until there is one."""
    alone = governor_options(initial_streams=1)
    async with (
        serving(scripted_engine(step_s=0.005), governor=alone) as server,
        GenerateCall(server.stubs.generation) as holder,
        GenerateCall(server.stubs.generation) as waiting,
    ):
        await holder.start(endless(2000, flow={"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}))
        (holders,) = readers()
        await waiting.start(endless(2, prompt_parts={}))
        (reader,) = set(readers()) - {holders}
        for _ in range(8):
            await waiting.send(prompt_part={"text": "x" * 32_768})
        await eventually(partial(waits_in, reader), lambda function: function == "room_for_parts")
        waiting.cancel()
        await reader
        assert not reader.cancelled()
