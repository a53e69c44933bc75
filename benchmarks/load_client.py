"""The load: a process of its own, so that its GIL and its CPU time are not the server's.

Usage: python -m benchmarks.load_client [WIRE]. Says "client", then answers one command of
benchmarks.jobs after the other until standard input ends.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator

import msgspec
import uvloop

from benchmarks.jobs import Command, Drain, Job, Outcome, Release, Stall, encode_outcome
from benchmarks.wires import WIRES, Connect, Counts, Wire

_FIRST_TOKEN_TIMEOUT_S = 60.0
_DRAIN_TIMEOUT_S = 120.0


async def _read(stream: AsyncGenerator[None, None], first_s: list[float], gaps_s: list[float] | None) -> None:
    """A stream to its end; notes seconds to its first message and, when wanted, between the others."""
    before_s = time.perf_counter()
    first = True
    async for _ in stream:
        if first:
            first = False
            now_s = time.perf_counter()
            first_s.append(now_s - before_s)
            before_s = now_s
        elif gaps_s is not None:
            now_s = time.perf_counter()
            gaps_s.append(now_s - before_s)
            before_s = now_s


async def _run(wire: Wire, job: Job) -> Outcome:
    """All streams over one connection. Raises RuntimeError when tokens are missing."""
    counts = Counts()
    first_token_s: list[float] = []
    gaps_s: list[float] = []

    async def slot(number: int) -> None:
        for prompt in job.prompts[number :: job.streams]:
            await _read(wire.tokens(prompt, job, counts), first_token_s, gaps_s if job.gaps else None)

    began_s = time.perf_counter()
    await asyncio.gather(*(slot(number) for number in range(job.streams)))
    elapsed_s = time.perf_counter() - began_s
    expected = len(job.prompts) * job.max_tokens
    if counts.tokens != expected:
        raise RuntimeError(f"got {counts.tokens} tokens, expected {expected}")
    return Outcome(elapsed_s, counts.tokens, counts.chunks, first_token_s, counts.received_bytes, gaps_s)


class _Stalled:
    """Streams that nobody reads. Owns their connection."""

    def __init__(self, wire: Wire, stall: Stall) -> None:
        self._wire = wire
        self._counts = Counts()
        job = Job(1, [], stall.max_tokens, max_unacked_chunks=stall.max_unacked_chunks)
        self._streams = [wire.tokens(prompt, job, self._counts) for prompt in stall.prompts]

    async def open(self) -> Outcome:
        async with asyncio.timeout(_FIRST_TOKEN_TIMEOUT_S):
            await asyncio.gather(*(anext(stream) for stream in self._streams))
        return self._outcome()

    async def release(self) -> Outcome:
        for stream in self._streams:
            await stream.aclose()
        await self._wire.close()
        return self._outcome()

    async def drain(self) -> Outcome:
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            await asyncio.gather(*(_read(stream, [], None) for stream in self._streams))
        return self._outcome()

    def _outcome(self) -> Outcome:
        return Outcome(0.0, self._counts.tokens, self._counts.chunks, [], self._counts.received_bytes)


async def _answer(command: Command, connect: Connect, stalled: list[_Stalled]) -> Outcome:
    match command:
        case Job():
            wire = await connect(command.target)
            try:
                return await _run(wire, command)
            finally:
                await wire.close()
        case Stall():
            stalled.append(_Stalled(await connect(command.target), command))
            return await stalled[-1].open()
        case Drain():
            return await stalled[-1].drain()
        case Release():
            return await stalled.pop().release()


async def _serve(wire: str) -> None:
    print("client", flush=True)
    stalled: list[_Stalled] = []
    # In a thread, so that connections live on between two commands.
    while line := await asyncio.to_thread(sys.stdin.readline):
        command: Command = msgspec.json.decode(line, type=Command)
        print(encode_outcome(await _answer(command, WIRES[wire], stalled)), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(sys.argv[1] if len(sys.argv) > 1 else "penstock"))
