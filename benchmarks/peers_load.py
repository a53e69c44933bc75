"""Streams at any of the systems, and what each of them came to."""

import asyncio
import time
from collections.abc import Sequence

import grpc
import msgspec

from benchmarks.jobs import GREEDY, Job, Sampling
from benchmarks.wires import Counts, Wire

REFUSED = "refused"
FAILED = "failed"
DONE = "done"
LEFT = "left"

# With details it is an answer; without, a connection that broke is UNAVAILABLE too.
_DETAILS_KEY = "grpc-status-details-bin"
_HTTP_REFUSING = ("429", "503")
_LIMIT_S = 180.0


class Stream(msgspec.Struct):
    """One stream. Times are of time.perf_counter. arrivals_s: of each message with tokens.

    tokens: as its end says; of one without an end, its messages. cause: of a refusal or failure.
    """

    began_s: float
    arrivals_s: list[float]
    ended_s: float = 0.0
    tokens: int = 0
    ending: str = DONE
    cause: str = ""
    text: str = ""

    @property
    def first_s(self) -> float | None:
        """Seconds to the first token."""
        return self.arrivals_s[0] - self.began_s if self.arrivals_s else None

    def gaps_s(self) -> list[float]:
        """Seconds from each message with tokens to the next."""
        return [later - earlier for earlier, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]

    def tokens_between(self, begin_s: float, end_s: float) -> int:
        """Messages with tokens that came in this time, taken for one token each."""
        return sum(begin_s <= arrival_s < end_s for arrival_s in self.arrivals_s)


async def read(
    wire: Wire,
    prompt: str,
    job: Job,
    sampling: Sampling = GREEDY,
    *,
    into: list[Stream] | None = None,
    texts: bool = False,
    limit_s: float = _LIMIT_S,
) -> Stream:
    """One stream to its end. It is put `into` the list when it begins, so that it can be looked at meanwhile.

    Cancelling the task leaves the stream as a client does that goes away.
    """
    counts = Counts(texts=texts)
    stream = Stream(time.perf_counter(), [])
    if into is not None:
        into.append(stream)
    try:
        async with asyncio.timeout(limit_s):
            async for _ in wire.tokens(prompt, job, counts, sampling):
                stream.arrivals_s.append(time.perf_counter())
        if not counts.tokens:
            stream.ending, stream.cause = FAILED, "cut short"
    except asyncio.CancelledError:
        stream.ending = LEFT
        raise
    except (grpc.aio.AioRpcError, RuntimeError, OSError, TimeoutError, EOFError) as error:
        stream.ending, stream.cause = ending_of(error)
    finally:
        stream.ended_s = time.perf_counter()
        stream.tokens = counts.tokens or counts.chunks
        stream.text = "".join(counts.texts or [])
    return stream


async def read_all(
    wire: Wire, prompts: Sequence[str], job: Job, samplings: Sequence[Sampling] = (GREEDY,)
) -> list[Stream]:
    """`job.streams` at a time: stream n takes prompts n, n + streams ... and the samplings in turn."""
    done: list[Stream] = []

    async def slot(first: int) -> None:
        for number in range(first, len(prompts), job.streams):
            await read(wire, prompts[number], job, samplings[number % len(samplings)], into=done)

    await asyncio.gather(*(slot(first) for first in range(min(job.streams, len(prompts)))))
    return done


def ending_of(error: Exception) -> tuple[str, str]:
    if isinstance(error, grpc.aio.AioRpcError):
        code = error.code()
        answered = any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ())
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED or (
            code is grpc.StatusCode.UNAVAILABLE and answered
        )
        return (REFUSED if refused else FAILED), f"{code.name}: {error.details()}"
    refused = isinstance(error, RuntimeError) and any(code in str(error) for code in _HTTP_REFUSING)
    return (REFUSED if refused else FAILED), f"{type(error).__name__}: {error}"


def mixed_samplings(count: int, *, seeds: bool) -> list[Sampling]:
    """A different choice for each of up to 180 streams, from few values of each parameter, as callers do.

    All are at a temperature above 0.
    """
    return [
        Sampling(
            temperature=(0.6, 0.7, 0.8, 0.9, 1.0)[number % 5],
            top_p=(1.0, 0.95, 0.9)[number // 5 % 3],
            top_k=(0, 40, 100, 200)[number // 3 % 4],
            min_p=(0.0, 0.02, 0.05)[number // 15 % 3],
            seed=number if seeds else None,
        )
        for number in range(count)
    ]
