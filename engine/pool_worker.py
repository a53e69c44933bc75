"""One place of the pool: a worker process that is started, watched, and started again."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from engine.contract import NO_COUNTERS, WorkerState
from engine.events import Token
from engine.lives import Lives
from engine.options import SupervisorOptions, WorkerOptions
from engine.suspects import CRASH_STRIKES, KILL_STRIKES, RESTART_STRIKES
from engine.wire import Command, Loading, Message, Ready, StartFailed
from engine.worker_process import WorkerProcess
from engine.worker_state import WorkerEvent, next_worker_state

_log = structlog.get_logger("penstock.engine")

# Part of stuck_after_s between two looks at the worker.
_LOOKS_PER_STUCK_TIME = 8
# What a process may take from the end of its connection to its own.
_EXIT_S = 0.25
# Exit statuses of a process that somebody else has ended.
_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class Reports(Protocol):
    """Who is told of a worker. Called on the event loop; must not block or raise."""

    def worker_ready(self, worker: "PoolWorker", ready: Ready) -> None:
        """It takes streams."""

    def worker_says(self, worker: "PoolWorker", messages: Sequence[Message]) -> None:
        """Messages about streams and calls. None comes after worker_lost until it is ready again."""

    def worker_lost(self, worker: "PoolWorker", error: str, *, strikes: int) -> None:
        """What it had is gone. error: why it could not start; empty when it was ready.

        strikes: for each of its streams, see engine.suspects.
        """

    def worker_gave_up(self, worker: "PoolWorker") -> None:
        """It is not started again."""


class PoolWorker:
    """Keeps a worker process running from start to end. `loading`: how far its model is, None before that."""

    def __init__(
        self,
        index: int,
        worker: WorkerOptions,
        supervisor: SupervisorOptions,
        reports: Reports,
        *,
        max_crashes: int,
        program: Sequence[str],
        clock: Callable[[], float],
    ) -> None:
        self.index = index
        self.restarts = 0
        self.counters = NO_COUNTERS
        """As the last heartbeat told them; whoever takes the messages keeps them here."""
        self.loading: Loading | None = None
        self._worker_options = worker
        self._options = supervisor
        self._reports = reports
        self._program = program
        self._clock = clock
        self._lives = Lives(
            max_crashes=max_crashes,
            backoff_initial_s=supervisor.restart_backoff_initial_s,
            backoff_max_s=supervisor.restart_backoff_max_s,
        )
        self._state = WorkerState.STARTING
        self._process: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        # Whether the process is being ended: that must not be broken off.
        self._ending = False
        self._last_sign_s = 0.0
        # Of the current life.
        self._ready_s: float | None = None
        self._lost_s = 0.0
        self._fruitful = False
        self._restarting = False
        # Whether it hung when it was restarted.
        self._hung = False

    @property
    def state(self) -> WorkerState:
        """The state now: a worker is suspect by the clock, not by an event."""
        if self._clock() - self._last_sign_s > self._options.stuck_after_s:
            self._apply(WorkerEvent.SILENT)
        return self._state

    @property
    def pid(self) -> int:
        """0 without a process."""
        return self._process.pid if self._process is not None else 0

    @property
    def silent_s(self) -> float:
        """Since the last sign of life; 0 while it is not loaded."""
        loaded = self._state in (WorkerState.READY, WorkerState.SUSPECT)
        return self._clock() - self._last_sign_s if loaded else 0.0

    def send(self, command: Command) -> None:
        """Send without waiting; to a worker that is gone, nothing."""
        if self._process is not None:
            self._process.send(command)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"worker {self.index}")

    def restart(self, why: str) -> bool:
        """End the process, to start another one at once. Whether it was loaded; otherwise nothing is done."""
        state = self.state
        if self._process is None or state not in (WorkerState.READY, WorkerState.SUSPECT):
            return False
        _log.warning("restarting worker", worker=self.index, pid=self.pid, why=why)
        self._restarting, self._hung = True, state is WorkerState.SUSPECT
        self._apply(WorkerEvent.LOST)  # It gets no more streams; those that it has are told when it is gone.
        self._process.kill()
        return True

    def drain(self) -> None:
        """No process is started any more."""
        self._apply(WorkerEvent.DRAIN)

    async def end(self) -> None:
        """End the process, and return when it has ended. May be called several times, also at once."""
        self.drain()
        if self._task is not None:
            if not self._ending:
                self._ending = True
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """One life after the other, until cancelled or a crash loop."""
        while True:
            began_s = self._clock()
            self._ready_s, self._fruitful, self._restarting = None, False, False
            try:
                error = await self._live()
            except Exception as defect:  # Whatever it is, a new worker is better than none.
                _log.exception("worker supervision failed", worker=self.index)
                error = f"{type(defect).__name__}: {defect}"
                self._lost_s = self._clock()
                self._lose(error, CRASH_STRIKES)
            if self._state is WorkerState.DRAINING:
                return
            self._ending = False
            if not self._restarting:
                delay_s = self._end_life(self._lost_s - began_s)
                if self._lives.crash_loop:
                    break
                _log.error(
                    "worker lost",
                    worker=self.index,
                    error=error,
                    restart_in_s=delay_s,
                    failures=self._lives.short,
                )
                await asyncio.sleep(delay_s)
            self.restarts += 1
            self._apply(WorkerEvent.SPAWNED)
        _log.error("worker in a crash loop, it is not started again", worker=self.index, error=error)
        self._apply(WorkerEvent.GAVE_UP)
        self._reports.worker_gave_up(self)

    async def _live(self) -> str:
        """One worker process from its start to its end. Returns why it ended."""
        process = await WorkerProcess.spawn(self._worker_options, self._program)
        self._process = process
        watch: asyncio.Task[None] | None = None
        try:
            error = await self._until_ready(process)
            if not error:
                watch = asyncio.create_task(self._watch(process), name=f"watch of worker {self.index}")
                while messages := await process.receive():
                    self._take(messages)
            self._lost_s = self._clock()
            status = await process.exit_status(_EXIT_S)
            self._lose(error, self._strikes(process, status))
        finally:
            self._ending = True
            if watch is None:
                process.kill()  # It has nothing to tidy up yet, and does not listen while it loads.
            else:
                watch.cancel()
            self._process = None
            self.counters = NO_COUNTERS
            status = await process.end(self._options.stop_timeout_s)
        return error or f"process {process.pid} ended with exit status {status}"

    async def _until_ready(self, process: WorkerProcess) -> str:
        """Wait for the model. Returns what went wrong, "" when nothing did."""
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                while messages := await process.receive():
                    for message in messages:
                        match message:
                            case Loading():
                                self.loading = message
                            case StartFailed():
                                return message.message
                            case Ready():
                                self._become_ready(process, message)
                                return ""
        except TimeoutError:
            process.kill()
            return f"the model was not ready within {self._options.start_timeout_s:g} s"
        return "the worker process ended while it loaded the model"

    def _become_ready(self, process: WorkerProcess, ready: Ready) -> None:
        self._ready_s = self._last_sign_s = self._clock()
        self._apply(WorkerEvent.LOADED)
        _log.info(
            "worker ready",
            worker=self.index,
            model=ready.model.name,
            pid=process.pid,
            cpu_blas=ready.cpu_blas or "mlx's own",
        )
        self._reports.worker_ready(self, ready)

    async def _watch(self, process: WorkerProcess) -> None:
        """Kill a worker that gives no sign of life for too long."""
        interval_s = self._options.stuck_after_s / _LOOKS_PER_STUCK_TIME
        looked_s = self._clock()
        while True:
            await asyncio.sleep(interval_s)
            late = self._clock() - looked_s > 2 * interval_s
            looked_s = self._clock()
            # A late look means that this process was held up: its own delay is not the worker's.
            if not late and looked_s - self._last_sign_s > self._options.kill_after_s:
                _log.error(
                    "worker stuck, killing it",
                    worker=self.index,
                    pid=process.pid,
                    kill_after_s=self._options.kill_after_s,
                )
                process.kill()
                return

    def _take(self, messages: list[Message]) -> None:
        self._last_sign_s = self._clock()
        self._apply(WorkerEvent.HEARD)
        if not self._fruitful:
            self._fruitful = any(isinstance(message, Token) for message in messages)
        self._reports.worker_says(self, messages)

    def _strikes(self, process: WorkerProcess, status: int | None) -> int:
        """What the end of a process says of the streams that it had."""
        if self._restarting:
            # Or a request that hangs every worker would be found by nobody: each is restarted in time.
            return CRASH_STRIKES if self._hung else RESTART_STRIKES
        return KILL_STRIKES if status in _OUTSIDE and not process.killed else CRASH_STRIKES

    def _end_life(self, lived_s: float) -> float:
        """Count a life that ended by itself. Returns seconds to wait before the next."""
        ready_s = None if self._ready_s is None else self._lost_s - self._ready_s
        return self._lives.ended(lived_s=lived_s, ready_s=ready_s, fruitful=self._fruitful)

    def _lose(self, error: str, strikes: int) -> None:
        """Tell of the loss at once: the end of the process may take its time."""
        self._apply(WorkerEvent.LOST)
        self._reports.worker_lost(self, error, strikes=strikes)

    def _apply(self, event: WorkerEvent) -> None:
        self._state = next_worker_state(self._state, event)
