"""The load: a process of its own, so that its GIL and its CPU time are not the server's.

It parses no chunk: on a machine with few cores the client must cost less than what it measures.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import uvloop

from benchmarks.jobs import Job, Outcome, answer_jobs
from penstock.v1 import generation_pb2 as pb

_METHOD = "/penstock.v1.GenerationService/Generate"
_CONNECT_TIMEOUT_S = 30.0


def _first_byte(message: pb.GenerateResponse) -> int:
    """The tag that a message begins with; it names the member of the oneof."""
    return message.SerializeToString()[0]


_CHUNK = _first_byte(pb.GenerateResponse(chunk=pb.Chunk(seq=1)))
_ACCEPTED = _first_byte(pb.GenerateResponse(accepted=pb.Accepted(seed=1)))
_FINISHED = _first_byte(pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_LENGTH)))


class _Counts:
    """What all streams of a job have received."""

    def __init__(self) -> None:
        self.tokens = 0
        self.chunks = 0
        self.first_token_s: list[float] = []


async def _generate(open_call: Callable[[], Any], start: pb.Start, counts: _Counts) -> None:
    """One stream from start to finished; acks at half of the window."""
    began_s = time.perf_counter()
    call = open_call()
    await call.write(pb.GenerateRequest(start=start))
    chunks = acked = half_window = 0
    finished = False
    try:
        async for data in call:
            if data[0] == _CHUNK:
                chunks += 1
                if chunks == 1:
                    counts.first_token_s.append(time.perf_counter() - began_s)
                if half_window and chunks - acked >= half_window:
                    acked = chunks
                    half_window = half_window if await _ack(call, acked) else 0
            elif data[0] == _ACCEPTED:
                half_window = (pb.GenerateResponse.FromString(data).accepted.max_unacked_chunks + 1) // 2
            elif data[0] == _FINISHED:
                finished = True
                counts.tokens += pb.GenerateResponse.FromString(data).finished.usage.completion_tokens
    except grpc.aio.AioRpcError:
        if not finished:  # Else it is the failure of an ack, which grpc.aio took for the call's.
            raise
    counts.chunks += chunks


async def _ack(call: Any, seq: int) -> bool:
    """False when the call has ended: an ack that crosses its end fails, github.com/grpc/grpc issue 36066."""
    try:
        await call.write(pb.GenerateRequest(ack=pb.Ack(seq=seq)))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


def _start(job: Job, prompt: str) -> pb.Start:
    start = pb.Start(prompt=prompt)
    start.sampling.temperature = 0
    start.stopping.max_tokens = job.max_tokens
    start.stopping.ignore_eos = True
    start.flow.max_tokens_per_chunk = job.max_tokens_per_chunk
    return start


async def _run(job: Job) -> Outcome:
    """All streams over one connection. Raises RuntimeError when tokens are missing."""
    counts = _Counts()
    async with grpc.aio.insecure_channel(job.target) as channel:
        await asyncio.wait_for(channel.channel_ready(), _CONNECT_TIMEOUT_S)
        open_call: Callable[[], Any] = channel.stream_stream(_METHOD, pb.GenerateRequest.SerializeToString)

        async def slot(number: int) -> None:
            for prompt in job.prompts[number :: job.streams]:
                await _generate(open_call, _start(job, prompt), counts)

        began_s = time.perf_counter()
        await asyncio.gather(*(slot(number) for number in range(job.streams)))
        elapsed_s = time.perf_counter() - began_s
    expected = len(job.prompts) * job.max_tokens
    if counts.tokens != expected:
        raise RuntimeError(f"got {counts.tokens} tokens, expected {expected}")
    return Outcome(elapsed_s, counts.tokens, counts.chunks, counts.first_token_s)


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer_jobs("client", lambda job: runner.run(_run(job)))


if __name__ == "__main__":
    main()
