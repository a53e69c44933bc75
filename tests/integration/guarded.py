"""Servers whose guard looks often, callers that keep them busy, and what status says of the guard's deeds."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from penstock.v1 import generation_pb2 as pb
from penstock.v1 import status_pb2
from penstock.v1.status_pb2 import Status
from tests.integration.admission_calls import TenantCall
from tests.service.calls import Answer
from tests.service.servers import Stubs

INTERVAL_S = 0.5
FAST_WINDOW_S, SLOW_WINDOW_S = 3 * INTERVAL_S, 6 * INTERVAL_S
WITHIN_PERIODS = 3
"""Evaluations until an action, from when the fault shows."""
WITHIN_S = 60.0
LOOK_S = 0.05
RETRY_S = 0.1


def guarded(mode: str = "act", **changes: str) -> dict[str, str]:
    """Options with short windows and without objectives; changes: those that the test is about."""
    return {
        "SLO__EVALUATION_INTERVAL_MS": str(INTERVAL_S * 1e3),
        "SLO__FAST_WINDOW_MS": str(FAST_WINDOW_S * 1e3),
        "SLO__SLOW_WINDOW_MS": str(SLOW_WINDOW_S * 1e3),
        "SLO__MIN_SAMPLES": "5",
        "SLO__TTFT_P50_MS": "0",
        "SLO__TTFT_P95_MS": "0",
        "SLO__INTER_TOKEN_P95_MS": "0",
        "SLO__MAX_REFUSAL_RATE": "1",
        "SLO__MAX_INFRASTRUCTURE_CANCELLATIONS": "1",
        "REMEDIATION__MODE": mode,
        "REMEDIATION__COOL_DOWN_MS": "1000",
        # On a busy machine a worker may be silent for long, and a caller.
        "STREAM_REGISTRY__IDLE_TIMEOUT_MS": "60000",
        "ENGINE__STUCK_AFTER_MS": "60000",
        "ENGINE__KILL_AFTER_MS": "120000",
        **changes,
    }


class Deed:
    """An event of remediation. at_s: when, by the server's uptime, which one status can tell another."""

    def __init__(self, status: Status, event: status_pb2.RemediationEvent) -> None:
        self.at_s = status.uptime_s - event.ago_ms / 1e3
        self.what = f"{event.action} {event.subject}".strip()
        self.outcome = event.outcome
        self.cause = event.cause
        self.dry_run = event.dry_run

    def __repr__(self) -> str:
        dry = " (dry run)" if self.dry_run else ""
        return f"{self.at_s:.2f} s {self.what} {self.outcome}{dry}: {self.cause}"


def deeds(status: Status, since_s: float = 0.0) -> list[Deed]:
    """What was done since then, oldest first."""
    told = [Deed(status, event) for event in reversed(status.remediation.events)]
    return [deed for deed in told if deed.at_s > since_s]


class Watch:
    """Looks at the status of a server, and keeps what it says of the guard. All times are the server's."""

    def __init__(self, stubs: Stubs, since_s: float) -> None:
        """since_s: what was done before is left out."""
        self._stubs = stubs
        self._since_s = since_s
        self.breached_s: float | None = None
        """When the last breach began that was seen."""

    async def done(self, what: str, outcome: str) -> Deed:
        """The deed, once it is done."""
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            status = await self._look()
            for deed in deeds(status, self._since_s):
                if (deed.what, deed.outcome) == (what, outcome):
                    return deed
            assert time.monotonic() < deadline_s, f"{what} not {outcome}: {status}"
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> Status:
        status = await self._stubs.status()
        for objective in status.service_levels.objectives:
            if objective.breached_ms:
                self.breached_s = status.uptime_s - objective.breached_ms / 1e3
        return status


def periods(since_s: float | None, deed: Deed) -> float:
    """Evaluation periods from a time of the server to a deed. AssertionError without the time."""
    assert since_s is not None
    return (deed.at_s - since_s) / INTERVAL_S


async def later(stubs: Stubs, windows: float) -> Status:
    """The status after so many slow windows of the server's time."""
    status = await stubs.status()
    until_s = status.uptime_s + windows * SLOW_WINDOW_S
    while (left_s := until_s - status.uptime_s) > 0:
        await asyncio.sleep(left_s)
        status = await stubs.status()
    return status


class Callers:
    """Callers who ask again as soon as they are answered, or refused. What they got, by tenant."""

    def __init__(self, stubs: Stubs) -> None:
        self.answers: list[Answer] = []
        self.finished: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._stubs = stubs
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    def begin(self, number: int, message: Callable[[], pb.Start], tenant: str = "", **how: Any) -> None:
        tasks = self._tasks.setdefault(tenant, [])
        tasks += [asyncio.create_task(self._keep_asking(message, tenant, how)) for _ in range(number)]

    async def end(self, tenant: str = "") -> None:
        """They ask no more, and give up what they asked for."""
        tasks = self._tasks.pop(tenant, [])
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise result or AssertionError("a caller stopped by itself")

    async def end_all(self) -> None:
        for tenant in list(self._tasks):
            await self.end(tenant)

    async def _keep_asking(self, message: Callable[[], pb.Start], tenant: str, how: dict[str, Any]) -> None:
        while True:
            async with TenantCall(self._stubs.generation, tenant or None, **how) as call:
                try:
                    await call.start(message())
                    await call.half_close()
                    self.answers.append(await call.rest())
                    self.finished[tenant] += 1
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    self.refused[tenant] += 1
                    await asyncio.sleep(RETRY_S)  # It does not wait for as long as it is told to.


@asynccontextmanager
async def callers(stubs: Stubs) -> AsyncIterator[Callers]:
    callers = Callers(stubs)
    try:
        yield callers
    finally:
        await callers.end_all()
