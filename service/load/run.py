"""One run of load: sends requests when they are due, or when callers are free, and keeps every attempt."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from service.load.attempt import Attempt, Ending
from service.load.caller import Caller
from service.load.options import LoadOptions
from service.load.requests import Request, Requests

UNTOLD_WAIT_S = 1.0
"""Wait after a refusal that does not say how long, and of a closed loop after any call without an answer."""


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """A run as it is now. asked: requests so far. waiting: those that will be tried again."""

    now_s: float
    asked: int
    open_streams: int
    waiting: int
    endings: Counter[Ending]


class LoadRun:
    """Runs once. Every call is in `attempts` from its beginning.

    arrivals: when to send, seconds since the run began; None for a closed loop. clock: seconds since then.
    """

    def __init__(
        self,
        options: LoadOptions,
        requests: Requests,
        arrivals: Iterable[float] | None,
        caller: Caller,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.ended_s = 0.0
        self._options = options
        self._requests = requests
        self._arrivals = arrivals
        self._caller = caller
        self._clock, self._sleep = clock, sleep
        self._asked = self._open_streams = self._waiting = 0
        self._endings: Counter[Ending] = Counter()

    async def run(self) -> None:
        """To the end of duration_s, and then until the open streams end, for grace_s at most.

        Cancelled: ends the open streams at once. ExceptionGroup for a defect in a call.
        """
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
                    if self._arrivals is not None:
                        await self._send(self._arrivals, group)
                    else:
                        for _ in range(self._options.callers):
                            group.create_task(self._keep_asking())
                    left_s = self._options.duration_s + self._options.grace_s - self._clock()
                    limit.reschedule(asyncio.get_running_loop().time() + max(0.0, left_s))
        finally:
            self.ended_s = self._clock()

    def snapshot(self) -> LoadSnapshot:
        """The run as it is now."""
        return LoadSnapshot(
            self._clock(), self._asked, self._open_streams, self._waiting, self._endings.copy()
        )

    async def _send(self, arrivals: Iterable[float], group: asyncio.TaskGroup) -> None:
        for number, due_s in enumerate(arrivals, 1):
            request = self._requests.get(number)
            # One turn of the loop at least, so that arrivals that are late do not stop the readers.
            await self._sleep_until(due_s)
            self._asked += 1
            if self._open_streams < self._options.max_streams:
                self._open_streams += 1
                group.create_task(self._life(request, due_s))
            else:
                self._keep_unsent(request, due_s)
        await self._sleep_until(self._options.duration_s)

    async def _keep_asking(self) -> None:
        """One caller of a closed loop. After a refusal it waits as told, like one who tries again."""
        most = self._options.max_requests
        while (now_s := self._clock()) < self._options.duration_s and not 0 < most <= self._asked:
            self._asked += 1
            self._open_streams += 1
            last = await self._life(self._requests.get(self._asked), now_s)
            if last.ending is not Ending.ANSWERED:
                await self._sleep_until(min(_again_s(last), self._options.duration_s))

    async def _life(self, request: Request, due_s: float) -> Attempt:
        """A request until it is answered or given up; returns the last call.

        Whoever calls this has counted the stream as open, so that the bound holds before the task begins.
        """
        for tries in itertools.count(1):
            attempt = await self._try(request, tries, due_s)
            due_s = _again_s(attempt)
            more = attempt.ending is Ending.REFUSED and tries < self._options.max_tries
            if not more or due_s >= self._options.duration_s:
                break
            self._waiting += 1
            await self._sleep_until(due_s)
            self._waiting -= 1
            if self._open_streams >= self._options.max_streams:
                break
            self._open_streams += 1
        return attempt

    async def _try(self, request: Request, tries: int, due_s: float) -> Attempt:
        attempt = Attempt(request.number, tries, request.tenant, due_s, sent_s=self._clock())
        self.attempts.append(attempt)
        try:
            await self._caller.call(request, attempt)
        finally:
            self._open_streams -= 1
            self._endings[attempt.ending] += 1
        return attempt

    def _keep_unsent(self, request: Request, due_s: float) -> None:
        now_s = self._clock()
        attempt = Attempt(request.number, 1, request.tenant, due_s, now_s, now_s, Ending.NOT_SENT)
        self.attempts.append(attempt)
        self._endings[attempt.ending] += 1

    async def _sleep_until(self, time_s: float) -> None:
        await self._sleep(max(0.0, time_s - self._clock()))


def _again_s(attempt: Attempt) -> float:
    """When the server may be asked again."""
    return attempt.ended_s + (UNTOLD_WAIT_S if attempt.retry_after_s is None else attempt.retry_after_s)
