"""A server with a pool of workers, callers, and what disturbs them."""

import asyncio
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos import plan
from benchmarks.chaos.callers import Ended, Way, call, drawn_way
from benchmarks.chaos.plan import Event, make_plan
from benchmarks.chaos.requests import Output, make_requests, unbroken
from benchmarks.chaos.watch import Held, held_by, is_alive, is_child, send, unsettled
from benchmarks.processes import Child, family
from engine.model_source import EMBEDDED, resolve
from penstock.client import Client
from penstock.errors import PenstockError
from penstock.v1.status_pb2 import WORKER_STATE_READY
from service.assembly import LISTENING, METRICS

WORKERS = 2
LOG = "server.log"
SETTLE_S = 60.0
END_S = 60.0
_CALLERS = 8
_BURST = 16
_BURST_TOKENS = 24
_START_S = 120.0
_CALLERS_END_S = 300.0
_FURTHER = "further"
_WAYS = {plan.STALL: "stall", plan.CANCEL: "cancel", plan.DISCONNECT: "disconnect", plan.LEAVE: "disconnect"}
OPTIONS = {
    "SERVER__PORT": "0",
    "SERVER__DRAIN_GRACE_MS": "5000",
    "TELEMETRY__PROMETHEUS_PORT": "0",
    "LOGGING__LEVEL": "warning",
    "ENGINE__WORKERS": str(WORKERS),
    # Bits that do not depend on the batch, or texts could not be compared.
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__HEARTBEAT_INTERVAL_MS": "100",
    # Short steps, so that a busy machine does not make a worker look as if it hung.
    "ENGINE__PREFILL_STEP_TOKENS": "64",
    "ENGINE__STUCK_AFTER_MS": "2000",
    "ENGINE__KILL_AFTER_MS": "5000",
    "ENGINE__RESTART_BACKOFF_INITIAL_MS": "100",
    "ENGINE__RESTART_BACKOFF_MAX_MS": "1000",
    # Each of them is killed again and again, perhaps before it had a stream.
    "ENGINE__MAX_CRASHES": "1000",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
}


@dataclass
class Found:
    """What a run came to. events: how many of each kind took place; skipped: kinds that could not."""

    events: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    ended: list[Ended] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    failovers: int = 0
    restarts: int = 0
    settled_s: float | None = None
    before: Held | None = None
    after: Held | None = None
    exit_status: int | None = None


@dataclass(frozen=True)
class Size:
    """requests: different ones; each is run alone first. max_tokens: output of each at most.

    weights: how often each kind of event happens, relative to the others.
    """

    duration_s: float
    events: int
    requests: int
    max_tokens: int
    seed: int
    weights: Mapping[str, int]


def tell(what: str) -> None:
    """Say how far the run is."""
    print(f"  {what}", file=sys.stderr, flush=True)


Watch = Callable[[Child, str], AbstractAsyncContextManager[None]]
"""Looks at a server while it is disturbed, from rest to rest; given the address of its metrics too."""


@asynccontextmanager
async def look_away(server: Child, metrics: str) -> AsyncIterator[None]:
    """A Watch that watches nothing."""
    yield


async def run(
    size: Size, directory: Path, *, tell: Callable[[str], None] = tell, watch: Watch = look_away
) -> Found:
    """directory: for the server's log and a further model."""
    environ = {f"PENSTOCK_{name}": value for name, value in OPTIONS.items()}
    log = directory / LOG
    with Child("service", "serve", environ=environ, log=log) as server:
        target = server.read_line().removeprefix(LISTENING)
        metrics = server.read_line().removeprefix(METRICS)
        run = _Run(server, target, size, directory, tell)
        await run.whole(watch(server, metrics))
    run.found.problems += [f"in the server's log: {line}" for line in _tracebacks(log)]
    return run.found


def _tracebacks(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line[:300] for line in lines if "Traceback" in line]


class _Run:
    def __init__(
        self, server: Child, target: str, size: Size, directory: Path, tell: Callable[[str], None]
    ) -> None:
        self.found = Found()
        self._server = server
        self._target = target
        self._size = size
        self._directory = directory
        self._tell = tell
        self._client = Client(target)
        self._dice = random.Random(size.seed)
        self._requests = make_requests(size.requests, size.max_tokens, size.seed)
        self._expected: list[Output] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pids: set[int] = set()
        self._loaded = ""
        self._loading = asyncio.Lock()

    async def whole(self, watching: AbstractAsyncContextManager[None]) -> None:
        async with self._client:
            self.found.problems += [f"at the start: {what}" for what in await self._settle(_START_S)]
            if self.found.problems:
                return
            self._tell("the server is ready")
            self._expected = [await unbroken(self._client, request) for request in self._requests]
            self._tell(f"{len(self._expected)} requests answered alone")
            self.found.before = held_by(self._server.pid)
            async with watching:
                await self._disturb()
                self._tell(f"all {len(self.found.ended)} callers ended")
                await self._unload()
                began_s = time.monotonic()
                wrong = await self._settle(SETTLE_S)
                self.found.problems += [f"after {SETTLE_S:g} s: {what}" for what in wrong]
                self.found.settled_s = time.monotonic() - began_s
            await self._look_at_the_end()
        self.found.exit_status = await asyncio.to_thread(self._server.end, END_S)
        if self.found.exit_status != 0:
            self.found.problems.append(f"SIGTERM: exit status {self.found.exit_status}")
        left = [pid for pid in self._pids if is_alive(pid)]
        if left:
            self.found.problems.append(f"{len(left)} processes live on")

    async def _look_at_the_end(self) -> None:
        status = await self._client.status()
        self.found.failovers = status.failovers
        self.found.restarts = sum(each.restarts for each in status.workers)
        self.found.after = held_by(self._server.pid)
        if self.found.before is not None:
            self.found.problems += too_much(self.found.before, self.found.after)
        self._pids |= set(family(self._server.pid))

    async def _disturb(self) -> None:
        """All events at their times, over callers that come one after the other; then all callers end."""
        began_s = time.monotonic()
        ends_s = began_s + self._size.duration_s
        steady = [asyncio.create_task(self._caller(ends_s)) for _ in range(_CALLERS)]
        for event in self._plan():
            await asyncio.sleep(max(0.0, began_s + event.at_s - time.monotonic()))
            if not self._server.running:
                self.found.problems.append("the server ended")
                break
            done = await self._happen(event)
            (self.found.events if done else self.found.skipped)[event.kind] += 1
            self._tell(
                f"{time.monotonic() - began_s:6.1f} s: {event.kind}{'' if done else ' (cannot be done)'}"
            )
        tasks = {*steady, *self._tasks}
        _, running = await asyncio.wait(tasks, timeout=_CALLERS_END_S)
        for task in running:
            task.cancel()
        if running:
            self.found.problems.append(f"{len(running)} callers did not end")
        failed = await asyncio.gather(*tasks, return_exceptions=True)
        self.found.problems += [repr(each) for each in failed if isinstance(each, Exception)]

    def _plan(self) -> list[Event]:
        size = self._size
        return make_plan(size.events, size.duration_s, size.seed, size.weights)

    async def _caller(self, ends_s: float) -> None:
        while time.monotonic() < ends_s:
            await self._call(self._dice.randrange(len(self._requests)), Way())

    async def _call(self, number: int, way: Way, **changes: str) -> None:
        request, expected = self._requests[number], self._expected[number]
        self.found.ended.append(await call(self._target, request, expected, way, **changes))

    async def _happen(self, event: Event) -> bool:
        """False when it could not take place."""
        if event.kind in (plan.KILL, plan.STOP, plan.PAUSE):
            return await self._hit_a_worker(event)
        if event.kind == plan.BURST:
            for _ in range(_BURST):
                self._start(self._call(self._dice.randrange(len(self._requests)), Way()))
        elif event.kind == plan.LOAD:
            if not hasattr(self._client, "load_model"):
                return False
            self._start(self._one_at_a_time())
        else:
            way = drawn_way(event.kind, event.dice, _WAYS)
            if event.kind == plan.LEAVE:
                way = Way(after_chunks=1, leave="disconnect")
            self._start(self._call(self._dice.randrange(len(self._requests)), way))
        return True

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def _hit_a_worker(self, event: Event) -> bool:
        status = await self._client.status()
        workers = [each for each in status.workers if is_child(each.pid, self._server.pid)]
        self._pids |= {each.pid for each in workers}
        if event.kind == plan.STOP:
            # One that is stopped while it loads is found after start_timeout_ms only, which is many minutes.
            workers = [each for each in workers if each.state == WORKER_STATE_READY]
        pids = [each.pid for each in workers]
        if not pids:
            return False
        pid = pids[int(event.dice * len(pids))]
        if event.kind == plan.KILL:
            send(pid, signal.SIGKILL)
            return True
        send(pid, signal.SIGSTOP)
        if event.kind == plan.PAUSE:
            self._start(self._go_on(pid, 0.5 + event.dice))
        return True

    async def _go_on(self, pid: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if is_child(pid, self._server.pid):
            send(pid, signal.SIGCONT)

    async def _one_at_a_time(self) -> None:
        """A model must not go while this run asks it."""
        async with self._loading:
            await self._load_or_unload()

    async def _load_or_unload(self) -> None:
        """The embedded model under another name: it must give the same texts."""
        if self._loaded:
            await self._unload()
            return
        source = self._directory / _FURTHER
        if not source.exists():
            shutil.copytree(resolve(EMBEDDED)[0], source)
        client: Any = self._client
        try:
            async for message in client.load_model(str(source)):
                if message.HasField("model"):
                    self._loaded = message.model.name
        except PenstockError as error:
            self.found.skipped[f"{plan.LOAD}: {error.reason or type(error).__name__}"] += 1
        if self._loaded:
            await self._call(0, Way(), model=self._loaded)

    async def _unload(self) -> None:
        name, self._loaded = self._loaded, ""
        if name:
            client: Any = self._client
            try:
                await client.unload_model(name)
            except PenstockError as error:
                self.found.skipped[f"{plan.LOAD}: {error.reason or type(error).__name__}"] += 1

    async def _settle(self, limit_s: float) -> list[str]:
        """Wait for a whole pool with nothing to do; what is still wrong at the end."""
        ends_s = time.monotonic() + limit_s
        wrong = ["no status"]
        while wrong and time.monotonic() < ends_s:
            await asyncio.sleep(0.25)
            if not self._server.running:
                return ["the server ended"]
            try:
                wrong = unsettled(await self._client.status(timeout_s=5.0), WORKERS)
            except PenstockError as error:
                wrong = [f"no status: {error}"]
        return wrong


_MOST_RSS_GROWTH = 0.3
_MOST_RSS_GROWTH_BYTES = 40_000_000
_MOST_NEW_FILES = 16


def too_much(before: Held, after: Held) -> list[str]:
    """What the server holds at the end that it did not hold before."""
    wrong = []
    most = before.rss_bytes * (1 + _MOST_RSS_GROWTH) + _MOST_RSS_GROWTH_BYTES
    if after.rss_bytes > most:
        wrong.append(f"the server's memory grew from {before.rss_bytes >> 20} to {after.rss_bytes >> 20} MiB")
    if after.files > before.files + _MOST_NEW_FILES:
        wrong.append(f"open files grew from {before.files} to {after.files}")
    if after.processes > before.processes:
        wrong.append(f"{after.processes} processes, {before.processes} before")
    return wrong
