"""A thousand callers that leave in every way leave nothing behind."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import Status
from tests.integration.conftest import StartServer
from tests.integration.processes import ServerProcess
from tests.integration.states import idle, stalled
from tests.service.calls import GenerateCall, endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

CALLERS = 1000
WARM_UP = 100
AT_ONCE = 16
WINDOW_3 = {"max_unacked_chunks": 3, "max_tokens_per_chunk": 2}
# Room for a few parked rows only, so that some are evicted.
MAX_PARKED_KV_BYTES = 200_000
OPTIONS = {
    "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "40",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
    "STREAM_REGISTRY__CHUNK_POOLING__ENABLED": "true",
    "ENGINE__MAX_CONTEXT_TOKENS": "512",
    "ENGINE__HEARTBEAT_INTERVAL_MS": "20",
    # A busy machine may hold the worker up; its streams would fail.
    "ENGINE__STUCK_AFTER_MS": "30000",
    "ENGINE__KILL_AFTER_MS": "60000",
    "ENGINE__MAX_PARKED_KV_BYTES": str(MAX_PARKED_KV_BYTES),
}


async def leave(stubs: Stubs, address: str, dice: random.Random) -> None:
    """One caller: a start, some chunks, and one of the ways to leave."""
    way = dice.choice(
        ("cancel", "cancel message", "disconnect", "stall", "finish", "at once", "in the prompt")
    )
    prompt = "Once upon a time " * dice.randrange(1, 5)
    async with stubs_of(address) as own:
        stub = own.generation if way == "disconnect" else stubs.generation
        async with GenerateCall(stub) as call:
            if way == "in the prompt":
                await call.start(endless(50, prompt_parts={}))
                await call.send(prompt_part=pb.PromptPart(text=prompt))
                return
            flow = WINDOW_3 if way == "stall" else {}
            tokens = dice.randrange(3, 12) if way == "finish" else 200
            await call.start(endless(tokens, prompt=prompt, flow=flow))
            if way == "at once":
                return
            if way == "finish":
                await call.half_close()
                await call.rest()
                return
            await call.read_chunks(3 if way == "stall" else dice.randrange(1, 4))
            if way == "stall":
                await eventually(stubs.status, lambda status: status.workers[0].paused_rows > 0)
            if way == "cancel message":
                await call.send(cancel=pb.Cancel())
                await call.rest()
            elif way == "disconnect":
                await own.channel.close()


async def leave_all(stubs: Stubs, address: str, callers: int, dice: random.Random) -> None:
    free = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with free:
            await leave(stubs, address, dice)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one())


async def stall_together(stubs: Stubs, callers: int) -> Status:
    """Callers who stall until all are parked, and then leave; the status with all of them parked."""
    async with AsyncExitStack() as stack:
        for _ in range(callers):
            call = await stack.enter_async_context(GenerateCall(stubs.generation))
            await call.start(endless(200, flow=WINDOW_3))
        return await stalled(stubs, callers)


def resident_bytes(server: ServerProcess, status: Status) -> int:
    """Of the server process and its worker together."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 + status.workers[0].rss_bytes


async def test_a_thousand_callers_who_leave(server_process: StartServer) -> None:
    dice = random.Random(20)
    server = server_process(OPTIONS)
    await asyncio.to_thread(server.wait_serving)
    async with stubs_of(server.address) as stubs:
        parked = await stall_together(stubs, AT_ONCE)
        assert 0 < parked.workers[0].parked_kv_bytes <= MAX_PARKED_KV_BYTES
        assert parked.workers[0].evictions > 0
        await leave_all(stubs, server.address, WARM_UP - AT_ONCE, dice)
        before = resident_bytes(server, await idle(stubs))
        await leave_all(stubs, server.address, CALLERS - WARM_UP, dice)
        status = await idle(stubs)
        ended = status.streams.ended
        assert ended.cancelled + ended.finished == CALLERS
        assert ended.failed == 0
        assert (status.streams.active, status.workers[0].parked_kv_bytes, status.workers[0].kv_bytes) == (
            0,
            0,
            0,
        )
        assert status.message_pool.in_use == 0
        assert resident_bytes(server, status) <= 1.1 * before
    assert await asyncio.to_thread(_still_serves, server.address)


def _still_serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
    return True
