"""Runs of load without a server: time that does not pass by itself, and calls that play a script."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any

from service.load.attempt import Attempt, Ending
from service.load.options import ArrivalKind, BurstShape, LoadOptions, Targets
from service.load.requests import Request, Requests
from service.load.run import LoadRun

# What is ready runs within so many turns of the loop.
_TURNS = 20

OPTIONS = LoadOptions(
    target="127.0.0.1:1",
    arrivals=ArrivalKind.CONSTANT,
    rate_per_s=10.0,
    duration_s=10.0,
    grace_s=30.0,
    burst=BurstShape(factor=10.0, burst_s=1.0, period_s=5.0),
    callers=2,
    max_requests=0,
    max_tries=1,
    max_streams=2000,
    tenants={},
    priority=None,
    model=None,
    prompt_tokens=8,
    max_tokens=16,
    ignore_eos=True,
    timeout_s=None,
    targets=Targets(ttft_s=1.0, latency_s=0.2),
    seed=7,
)


def load_options(**changes: Any) -> LoadOptions:
    return replace(OPTIONS, **changes)


class VirtualTime:
    """A clock that goes on to the next sleeper's time when nothing else can run."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + delay_s, next(self._order), woken))
        await woken

    async def drive(self, coroutine: Coroutine[Any, Any, None], *, cancel_s: float | None = None) -> None:
        """Runs a coroutine to its end; cancels it at cancel_s."""
        task = asyncio.create_task(coroutine)
        while not task.done():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if not task.done() and self._sleepers:
                if cancel_s is not None and self._sleepers[0][0] > cancel_s:
                    self.now_s = cancel_s
                    task.cancel()
                    await asyncio.wait([task])
                else:
                    self._wake()
        await task

    def _wake(self) -> None:
        wake_s, _, woken = heapq.heappop(self._sleepers)
        self.now_s = max(self.now_s, wake_s)
        if not woken.done():
            woken.set_result(None)


@dataclass(frozen=True)
class Play:
    """How a call goes: it ends so after took_s. blocks_s: the process does nothing else for so long."""

    took_s: float = 0.0
    ending: Ending = Ending.ANSWERED
    cause: str = ""
    retry_after_s: float | None = None
    blocks_s: float = 0.0
    defect: Exception | None = None


class ScriptedCaller:
    """A Caller that asks `script` how each call goes. most_open: calls at the same time, at most so far."""

    def __init__(self, time: VirtualTime, script: Callable[[Attempt], Play]) -> None:
        self.requests: list[Request] = []
        self.most_open = 0
        self._open = 0
        self._time = time
        self._script = script

    async def call(self, request: Request, attempt: Attempt) -> None:
        self.requests.append(request)
        play = self._script(attempt)
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        try:
            if play.defect is not None:
                raise play.defect
            self._time.now_s += play.blocks_s
            await self._time.sleep(play.took_s)
            attempt.ending, attempt.cause = play.ending, play.cause
            attempt.retry_after_s = play.retry_after_s
        finally:
            attempt.ended_s = self._time()
            self._open -= 1


@dataclass
class Ran:
    """A run and what it was made of."""

    run: LoadRun
    caller: ScriptedCaller
    time: VirtualTime

    @property
    def sent_s(self) -> list[float]:
        return [round(attempt.sent_s, 6) for attempt in self.run.attempts]

    @property
    def endings(self) -> list[Ending]:
        return [attempt.ending for attempt in self.run.attempts]


def prepared(
    script: Callable[[Attempt], Play], arrivals: Iterable[float] | None = None, **changes: Any
) -> Ran:
    """A run that has not begun; with arrivals None a closed loop."""
    time = VirtualTime()
    caller = ScriptedCaller(time, script)
    options = load_options(**changes)
    requests = Requests(options.seed, options.tenants, prompt_words=4)
    return Ran(LoadRun(options, requests, arrivals, caller, time, time.sleep), caller, time)


async def ran(
    script: Callable[[Attempt], Play], arrivals: Iterable[float] | None = None, **changes: Any
) -> Ran:
    """A run that has ended."""
    it = prepared(script, arrivals, **changes)
    await it.time.drive(it.run.run())
    return it
