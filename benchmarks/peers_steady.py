"""Cases that a server survives: a long prompt, a conversation, a seed, many connections."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import grpc

from benchmarks.jobs import Job, Sampling
from benchmarks.measure import percentile
from benchmarks.peers_load import DONE, FAILED, REFUSED, Stream, read, read_all
from benchmarks.result import Cell
from benchmarks.serving import prompts
from benchmarks.systems import System
from benchmarks.wires import WIRES, Wire
from benchmarks.words import words

OTHERS = 8
TURNS = 5
GAP = "largest gap between two tokens of a stream, ms"
GROWTH = "TTFT of turn 5 by that of turn 1"
_LONG_TOKENS = 6_000
_TURN_TOKENS = 400
_ANSWER_TOKENS = 64
_CONNECTIONS = 400
_ENDLESS_TOKENS = 5_000
_SEEDED_TOKENS = 128
_BEGUN_MESSAGES = 10
# Before the case begins the others run alone for so long.
_ALONE_S = 1.0
_AFTER_S = 0.3
_START_LIMIT_S = 60.0
_UNREACHABLE = (grpc.RpcError, OSError, TimeoutError)
_seeds = itertools.count(1_000)


class UnavailableCaseError(Exception):
    """The system cannot be asked for this; str() says why."""


@asynccontextmanager
async def connected(system: System) -> AsyncIterator[Wire]:
    wire = await WIRES[system.wire](system.target)
    try:
        yield wire
    finally:
        await wire.close()


@asynccontextmanager
async def others(
    wire: Wire,
    tokenizer: str,
    sampling: Sampling,
    count: int = OTHERS,
    tokens: int = _ENDLESS_TOKENS,
    *,
    again: bool = False,
) -> AsyncIterator[tuple[list[Stream], list[asyncio.Task[Stream]]]]:
    """Streams that run meanwhile, once all have begun; they are left at the end.

    again: whether each is followed by another.
    """
    streams: list[Stream] = []
    job = Job(count, [], tokens, tokenizer=tokenizer)

    async def slot() -> Stream:
        while True:
            stream = await read(wire, words(30, next(_seeds)), job, sampling, into=streams)
            if not again:
                return stream

    tasks = [asyncio.create_task(slot()) for _ in range(count)]
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            while not _begun(streams, count):  # noqa: ASYNC110 (streams tell nobody)
                await asyncio.sleep(0.02)
        yield streams, tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def long_prompt(system: System, tokenizer: str, number: int) -> dict[str, Cell]:
    """One prompt of 6,000 tokens while 8 streams are decoded."""
    async with connected(system) as wire, others(wire, tokenizer, Sampling()) as (streams, _):
        await asyncio.sleep(_ALONE_S)
        began_s = time.perf_counter()
        job = Job(1, [], 8, tokenizer=tokenizer)
        long = await read(wire, words(_LONG_TOKENS, f"long {number}"), job)
        await asyncio.sleep(_AFTER_S)
        ended_s = time.perf_counter()
        alone = sorted(gap for each in streams for gap in gaps_within(each, 0.0, began_s))
        beside = [gap for each in streams for gap in gaps_within(each, began_s, ended_s)]
    if long.first_s is None:
        raise UnavailableCaseError(long.cause)
    return {
        GAP: max(beside) * 1e3,
        "the same without the long prompt, ms": alone[-1] * 1e3,
        "p95 between two tokens without it, ms": percentile(alone, 0.95) * 1e3,
        "TTFT of the long prompt, ms": long.first_s * 1e3,
    }


def _begun(streams: Sequence[Stream], count: int) -> bool:
    return len(streams) == count and all(len(each.arrivals_s) >= _BEGUN_MESSAGES for each in streams)


def gaps_within(stream: Stream, begin_s: float, end_s: float) -> list[float]:
    """Seconds between messages, of the pairs that touch this time; the last one open until its end."""
    arrivals = [*stream.arrivals_s, max(end_s, stream.arrivals_s[-1])]
    return [b - a for a, b in itertools.pairwise(arrivals) if b > begin_s and a < end_s]


async def conversation(system: System, tokenizer: str, number: int) -> dict[str, Cell]:
    """Five turns. The prompt of each is all that was said before and 400 tokens more, less the answer's."""
    prompt, first_ms = "", []
    job = Job(1, [], _ANSWER_TOKENS, tokenizer=tokenizer)
    async with connected(system) as wire:
        for turn in range(TURNS):
            said = _TURN_TOKENS - (_ANSWER_TOKENS if turn else 0)
            new = words(said, f"conversation {number}, turn {turn}")
            prompt = f"{prompt} {new}".strip()
            stream = await read(wire, prompt, job, texts=True)
            if stream.first_s is None:
                raise UnavailableCaseError(stream.cause)
            first_ms.append(stream.first_s * 1e3)
            prompt = " ".join([prompt, *stream.text.split()])
    turns: dict[str, Cell] = {f"TTFT of turn {turn}, ms": ms for turn, ms in enumerate(first_ms, 1)}
    return turns | {GROWTH: first_ms[-1] / first_ms[0]}


async def seeded(system: System, tokenizer: str, number: int) -> dict[str, Cell]:
    """Eight callers without a seed, one stream after the other; a ninth stream without, one with a seed, and
    the same one again alone."""
    job = Job(1, [], _SEEDED_TOKENS, tokenizer=tokenizer)
    prompt = words(30, f"seeded {number}")
    free, fixed = Sampling(temperature=0.8), Sampling(temperature=0.8, seed=7 + number)
    async with connected(system) as wire:
        async with others(wire, tokenizer, free, tokens=_SEEDED_TOKENS, again=True) as (streams, _):
            plain_stream = await read(wire, prompt, job, free)
            seeded_stream = await read(wire, prompt, job, fixed, texts=True)
            rates = [_rate(streams, each) for each in (plain_stream, seeded_stream)]
            arrivals_s = sorted(arrival_s for each in streams for arrival_s in each.arrivals_s)
        during = Stream(seeded_stream.began_s, arrivals_s)
        silences_s = gaps_within(during, seeded_stream.began_s, seeded_stream.ended_s)
        alone = await read(wire, prompt, job, fixed, texts=True)
    return {
        "others' tokens/s beside one without a seed": rates[0],
        "others' tokens/s beside one with a seed": rates[1],
        "beside with / beside without": rates[1] / rates[0] if rates[0] else None,
        "longest time without a token for any of the others, ms": max(silences_s) * 1e3,
        "TTFT of the seeded one, ms": _ms(seeded_stream.first_s),
        "its text alone is the same": "yes" if alone.text and alone.text == seeded_stream.text else "no",
    }


async def connections(system: System, tokenizer: str, number: int) -> dict[str, Cell]:
    """400 clients that connect at the same time."""
    job = Job(1, [], 32, tokenizer=tokenizer)
    texts = prompts(_CONNECTIONS, seed=10_000 + number)

    async def one(prompt: str) -> Stream:
        began_s = time.perf_counter()
        try:
            async with connected(system) as wire:
                stream = await read(wire, prompt, job)
        except _UNREACHABLE as error:
            return Stream(began_s, [], time.perf_counter(), ending=FAILED, cause=type(error).__name__)
        stream.began_s = began_s
        return stream

    streams = await asyncio.gather(*(one(prompt) for prompt in texts))
    first_ms = sorted(
        each.first_s * 1e3 for each in streams if each.ending == DONE and each.first_s is not None
    )
    failed = [each.cause for each in streams if each.ending == FAILED]
    refused = [each.cause for each in streams if each.ending == REFUSED]
    return {
        "answered": sum(each.ending == DONE for each in streams),
        "refused": len(refused),
        "failed": len(failed),
        "a refusal": refused[0][:60] if refused else "",
        "a failure": failed[0][:60] if failed else "",
        "TTFT p50, ms": statistics.median(first_ms) if first_ms else None,
        "TTFT p95, ms": percentile(first_ms, 0.95) if first_ms else None,
        "seconds until the last one ended": max(e.ended_s for e in streams) - min(e.began_s for e in streams),
    }


async def still_serves(system: System, tokenizer: str, limit_s: float = 15.0) -> bool:
    """Whether a new client gets its answer."""
    job = Job(1, [], 4, tokenizer=tokenizer)
    with suppress(*_UNREACHABLE):
        async with asyncio.timeout(limit_s), connected(system) as wire:
            return (await read(wire, words(20, next(_seeds)), job)).ending == DONE
    return False


async def answered(wire: Wire, tokenizer: str, tokens: int, count: int) -> list[Stream]:
    """Streams of a number of tokens each, all at once."""
    job = Job(count, [], tokens, tokenizer=tokenizer)
    return await read_all(wire, [words(30, next(_seeds)) for _ in range(count)], job)


def _rate(streams: Sequence[Stream], during: Stream) -> float:
    """Tokens per second of these streams during another."""
    tokens = sum(each.tokens_between(during.began_s, during.ended_s) for each in streams)
    return tokens / (during.ended_s - during.began_s)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
