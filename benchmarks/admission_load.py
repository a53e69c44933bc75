"""Callers as those of `penstock bench`, in a process of their own that tells of every call.

Usage: python -m benchmarks.admission_load. Says "load", then answers one Load after the other with an
Observed, both as JSON in a line, until standard input ends.
"""

import asyncio
import sys
import time
from array import array
from dataclasses import replace
from random import Random

import msgspec
import uvloop

from benchmarks.admission_calls import Call, Load, Observed, arrivals
from benchmarks.measure import percentile
from service.load.attempt import Attempt
from service.load.caller import Caller, ClientCaller
from service.load.connections import Connections
from service.load.options import ArrivalKind, BurstShape, LoadOptions, Targets
from service.load.requests import SAMPLE, Request, Requests, words_for
from service.load.run import LoadRun

_MAX_OPEN_STREAMS = 4000
_GRACE_S = 60.0
# How often the event loop is asked to be on time.
_LAG_INTERVAL_S = 0.02
# Options of the load's generator that say nothing here: arrivals and numbers are made by this benchmark.
_NO_BURST = BurstShape(1.0, 1.0, 2.0)
_NO_TARGETS = Targets(0.0, 0.0)


class LoopLag:
    """Seconds by which the event loop came late, sampled while the block runs."""

    def __init__(self) -> None:
        self._late_s = array("d")

    async def sample(self) -> None:
        """Until cancelled."""
        while True:
            due_s = time.perf_counter() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self._late_s.append(time.perf_counter() - due_s)

    def take_p95_s(self) -> float:
        """95th percentile since the last call; 0 without a sample."""
        late_s, self._late_s = sorted(self._late_s), array("d")
        return max(0.0, percentile(late_s, 0.95)) if late_s else 0.0


class _Nameless:
    """Sends requests without their tenants, which the attempts keep."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def call(self, request: Request, attempt: Attempt) -> None:
        await self._caller.call(replace(request, tenant=""), attempt)


class _Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began_s


async def run(load: Load) -> Observed:
    """The load from its first call to its last end."""
    options = _options(load)
    async with Connections(load.target) as connections:
        with connections.borrow("") as client:
            sample_tokens = await client.count_tokens(SAMPLE)
        requests = Requests(load.seed, load.tenants, words_for(load.prompt_tokens, sample_tokens))
        # Made before the clock starts: a burst leaves no time for it.
        times = None if load.callers else list(arrivals(load.phases, Random(f"{load.seed} arrivals")))
        clock = _Stopwatch()
        caller: Caller = ClientCaller(connections, options, clock)
        if load.nameless:
            caller = _Nameless(caller)
        attempts = LoadRun(options, requests, times, caller, clock)
        lag = LoopLag()
        sampling = asyncio.create_task(lag.sample())
        try:
            await attempts.run()
        finally:
            sampling.cancel()
    return Observed([_call(attempt) for attempt in attempts.attempts], lag.take_p95_s())


def _options(load: Load) -> LoadOptions:
    return LoadOptions(
        target=load.target,
        arrivals=ArrivalKind.CLOSED if load.callers else ArrivalKind.POISSON,
        rate_per_s=0.0,
        duration_s=load.duration_s,
        grace_s=_GRACE_S,
        burst=_NO_BURST,
        callers=load.callers,
        max_requests=load.max_requests,
        max_tries=load.max_tries,
        max_streams=_MAX_OPEN_STREAMS,
        tenants=load.tenants,
        priority=load.priority,
        model=None,
        prompt_tokens=load.prompt_tokens,
        max_tokens=load.max_tokens,
        ignore_eos=True,
        timeout_s=None,
        targets=_NO_TARGETS,
        seed=load.seed,
    )


def _call(attempt: Attempt) -> Call:
    return Call(
        number=attempt.number,
        tries=attempt.tries,
        tenant=attempt.tenant,
        due_s=attempt.due_s,
        sent_s=attempt.sent_s,
        ended_s=attempt.ended_s,
        ending=attempt.ending.value,
        cause=attempt.cause,
        retry_after_s=attempt.retry_after_s,
        ttft_s=attempt.ttft_s,
        tokens=attempt.tokens,
    )


async def _serve() -> None:
    print("load", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        observed = await run(msgspec.json.decode(line, type=Load))
        print(msgspec.json.encode(observed).decode(), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
