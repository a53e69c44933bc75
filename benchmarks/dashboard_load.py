"""The load of the dashboard's picture: what a server meets in a day, in two minutes."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from penstock import Client
from penstock.duplex import Duplex
from penstock.tenant import tenant_metadata
from penstock.v1 import generation_pb2 as pb
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from penstock.v1.status_pb2 import WORKER_STATE_READY, GetStatusRequest
from penstock.v1.status_pb2_grpc import StatusServiceStub

if TYPE_CHECKING:  # Asynchronous stubs exist for type checkers only.
    from penstock.v1.generation_pb2_grpc import GenerationServiceAsyncStub
    from penstock.v1.status_pb2_grpc import StatusServiceAsyncStub

_WINDOW = 4
_TOKENS = 400
# So long that its KV cache is kept for the next one.
_PROMPT = "Once upon a time there was a little girl who lived in a house by the sea. " * 6
_PAUSE_S = 2.0
_LEAVE_EVERY_S = 1.5
_START_LIMIT_S = 120.0


class Part(msgspec.Struct, frozen=True):
    """One `penstock bench`. Shares of the whole time at which it begins and ends; its other options."""

    begin: float
    end: float
    options: tuple[str, ...]


PARTS = (
    Part(0.0, 1.0, ("--priority", "interactive", "--rate", "3", "--max-tokens", "60", "--tenant", "web")),
    Part(
        0.0, 1.0,
        ("--rate", "2", "--prompt-tokens", "120", "--max-tokens", "90", "--tenants", "ada=2,bob=1"),
    ),
    Part(
        0.15, 0.9,
        ("--priority", "bulk", "--arrivals", "closed", "--callers", "6", "--prompt-tokens", "300",
         "--max-tokens", "120", "--tenant", "night"),
    ),
    Part(0.35, 0.5, ("--priority", "interactive", "--rate", "60", "--max-tokens", "80", "--tenant", "crowd")),
)  # fmt: skip
"""Callers who wait for answers, two tenants, a nightly job, and a crowd that comes all at once."""
_SLOW_READERS = 6
_SLOW_AT, _KILL_AT = (0.2, 0.85), 0.65


async def wait_ready(address: str) -> None:
    """Return when all workers are ready. TimeoutError when that takes too long."""
    async with asyncio.timeout(_START_LIMIT_S), Client(address) as client:
        async for status in client.watch_status():
            if all(worker.state == WORKER_STATE_READY for worker in status.workers):
                return


async def put_load(address: str, duration_s: float) -> None:
    """All parts, readers that ack slowly, callers that leave, and a worker that is killed."""
    async with asyncio.TaskGroup() as group:
        for seed, part in enumerate(PARTS):
            group.create_task(_bench(address, part, duration_s, seed))
        async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as readers:
            generation = GenerationServiceStub(channel)
            for number in range(_SLOW_READERS):
                readers.create_task(_read_slowly(generation, number, duration_s))
            readers.create_task(_leave_early(generation, duration_s))
            await asyncio.sleep(_KILL_AT * duration_s)
            await _kill_a_worker(StatusServiceStub(channel))


async def _bench(address: str, part: Part, duration_s: float, seed: int) -> None:
    await asyncio.sleep(part.begin * duration_s)
    lasting_s = (part.end - part.begin) * duration_s
    command: Sequence[str] = (
        sys.executable, "-m", "service", "bench", "--target", address, "--duration", f"{lasting_s:.0f}",
        "--grace-seconds", "5", "--seed", str(seed), *part.options,
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()


async def _read_slowly(generation: "GenerationServiceAsyncStub", number: int, duration_s: float) -> None:
    """Streams one after the other whose reader acks a window, pauses, and acks the next."""
    begin_s, end_s = (share * duration_s for share in _SLOW_AT)
    await asyncio.sleep(begin_s + number)
    with suppress(TimeoutError):
        async with asyncio.timeout(end_s - begin_s):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await _one_slow_stream(generation)
                await asyncio.sleep(_PAUSE_S)


async def _one_slow_stream(generation: "GenerationServiceAsyncStub") -> None:
    call = Duplex(generation.Generate(metadata=tenant_metadata("slow")))
    try:
        await call.write(_start(flow={"max_unacked_chunks": _WINDOW}))
        while (message := await call.read()) is not None:
            seq = message.chunk.seq
            if seq and seq % _WINDOW == 0:
                await asyncio.sleep(_PAUSE_S)
                await call.write(pb.GenerateRequest(ack=pb.Ack(seq=seq)))
    finally:
        call.cancel()


async def _leave_early(generation: "GenerationServiceAsyncStub", duration_s: float) -> None:
    """Callers who cancel after some tokens, or whose time is up."""
    for number in range(int(duration_s / _LEAVE_EVERY_S)):
        timeout_s = _LEAVE_EVERY_S if number % 3 == 0 else None
        call = Duplex(generation.Generate(timeout=timeout_s, metadata=tenant_metadata("web")))
        with suppress(grpc.aio.AioRpcError):
            await call.write(_start())
            await call.half_close()
            for _ in range(40 if timeout_s is None else _TOKENS):
                if await call.read() is None:
                    break
        call.cancel()
        await asyncio.sleep(_LEAVE_EVERY_S)


def _start(**fields: Any) -> pb.GenerateRequest:
    fields |= {"sampling": {"temperature": 0}, "stopping": {"max_tokens": _TOKENS, "ignore_eos": True}}
    return pb.GenerateRequest(start=pb.Start(prompt=_PROMPT, **fields))


async def _kill_a_worker(statuses: "StatusServiceAsyncStub") -> None:
    """The streams of the worker go on on the other one."""
    response = await statuses.GetStatus(GetStatusRequest())
    with suppress(ProcessLookupError):
        os.kill(response.status.workers[0].pid, signal.SIGKILL)
