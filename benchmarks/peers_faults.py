"""Cases that a server may not survive: clients that leave while queued, requests that kill, its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from benchmarks.jobs import Job, Sampling
from benchmarks.peers_load import DONE, FAILED, Stream, read
from benchmarks.peers_steady import (
    OTHERS,
    UnavailableCaseError,
    answered,
    connected,
    others,
    still_serves,
)
from benchmarks.processes import cpu_s, wait_until_idle
from benchmarks.result import Cell
from benchmarks.systems import System
from benchmarks.words import VOCABULARY, words

_LEAVERS = 12
_LEAVERS_TOKENS = 1_500
_LEAVE_AFTER_S = 0.5
_BUSY_TOKENS = 400
_BYSTANDERS = 4
_BYSTANDERS_TOKENS = 300
_IDLE_LIMIT_S = 60.0
_END_LIMIT_S = 60.0
_KILLER_LIMIT_S = 20.0
_CAUSE_LETTERS = 70


async def leavers(system: System, tokenizer: str, number: int) -> dict[str, Cell]:
    """Twelve clients with prompts of 1,500 tokens queue behind 8 streams, which is all that may run, and go
    away. Judged by CPU time: with them, without them, and for one such prompt that is answered."""
    if cpu_s([]) is None:
        raise UnavailableCaseError("needs /proc")
    async with connected(system) as wire:
        one_s = await _cpu_of(
            system, read(wire, words(_LEAVERS_TOKENS, 500 + number), Job(1, [], 1, tokenizer=tokenizer))
        )
        without_s = await _cpu_of(system, answered(wire, tokenizer, _BUSY_TOKENS, OTHERS))

        async def with_leavers() -> None:
            busy = asyncio.create_task(answered(wire, tokenizer, _BUSY_TOKENS, OTHERS))
            await asyncio.sleep(_LEAVE_AFTER_S)
            job = Job(1, [], 64, tokenizer=tokenizer)
            seeds = range(600 + _LEAVERS * number, 600 + _LEAVERS * (number + 1))
            gone = [asyncio.create_task(read(wire, words(_LEAVERS_TOKENS, seed), job)) for seed in seeds]
            await asyncio.sleep(_LEAVE_AFTER_S)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            await busy

        with_s = await _cpu_of(system, with_leavers())
    return {
        "CPU s for one prompt that is answered": one_s,
        "CPU s for those that left": with_s - without_s,
        "prompts computed for nobody, by CPU": max(0.0, with_s - without_s) / one_s,
    }


async def _cpu_of(system: System, work: Awaitable[object]) -> float:
    """CPU seconds of the server until it is idle again."""
    pid = system.server.pid
    await asyncio.to_thread(wait_until_idle, pid, limit_s=_IDLE_LIMIT_S)
    before = cpu_s([pid])
    await work
    await asyncio.to_thread(wait_until_idle, pid, limit_s=_IDLE_LIMIT_S)
    after = cpu_s([pid])
    return 0.0 if before is None or after is None else after - before


async def _ask_with(sampling: Sampling, system: System, tokenizer: str) -> Stream:
    async with connected(system) as wire:
        job = Job(1, [], 16, tokenizer=tokenizer)
        return await read(wire, words(30, seed=1), job, sampling, limit_s=_KILLER_LIMIT_S)


async def _ask_again_with_answer(system: System, tokenizer: str) -> Stream:
    """A prompt that is an earlier prompt with its answer."""
    async with connected(system) as wire:
        job = Job(1, [], 16, tokenizer=tokenizer)
        first = await read(wire, words(30, seed=1), job, texts=True, limit_s=_KILLER_LIMIT_S)
        prompt = " ".join([words(30, seed=1), *first.text.split()])
        return await read(wire, prompt, job, limit_s=_KILLER_LIMIT_S)


async def kill(
    ask: Callable[[System, str], Awaitable[Stream]], system: System, tokenizer: str, _: int
) -> dict[str, Cell]:
    """A request beside four streams of others, and what became of those and of the server."""
    async with (
        connected(system) as wire,
        others(wire, tokenizer, Sampling(), _BYSTANDERS, _BYSTANDERS_TOKENS) as (_streams, tasks),
    ):
        asked = await ask(system, tokenizer)
        ended, _running = await asyncio.wait(tasks, timeout=_KILLER_LIMIT_S)
        finished = sum(task.result().ending == DONE for task in ended)
    serves = await still_serves(system, tokenizer)
    return {
        "the request": "answered"
        if asked.ending == DONE
        else f"{asked.ending}: {asked.cause[:_CAUSE_LETTERS]}",
        f"others that were answered, of {_BYSTANDERS}": finished,
        "serves afterwards": "yes" if serves else "no",
        "process": "runs" if system.server.running else "ended",
    }


KILLERS = {
    "top_k of the vocabulary's size": partial(
        kill, partial(_ask_with, Sampling(temperature=1.0, top_k=VOCABULARY))
    ),
    "a bias for a token that there is not": partial(
        kill, partial(_ask_with, Sampling(temperature=1.0, logit_bias={99_999_999: 1.0}))
    ),
    "a prompt that is an earlier one with its answer": partial(kill, _ask_again_with_answer),
}


async def end_under_load(system: System, tokenizer: str, _: int) -> dict[str, Cell]:
    """SIGTERM while streams run that have some hundred tokens to go."""
    async with (
        connected(system) as wire,
        others(wire, tokenizer, Sampling(), OTHERS, _BUSY_TOKENS) as (_streams, tasks),
    ):
        began_s = time.perf_counter()
        code = await asyncio.to_thread(system.server.end, _END_LIMIT_S)
        took_s = time.perf_counter() - began_s
        ended, _running = await asyncio.wait(tasks, timeout=5.0)
        endings = [task.result().ending for task in ended]
    return {
        "exit status": code if code is not None else f"runs on after {_END_LIMIT_S:g} s",
        "seconds until it ended": took_s,
        f"streams that were answered, of {OTHERS}": endings.count(DONE),
        "streams that were cut": endings.count(FAILED),
    }
