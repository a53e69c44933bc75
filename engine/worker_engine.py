"""The Engine that runs a model in a worker process, watches it and restarts it."""

import asyncio
import itertools
import time
from collections.abc import Callable

import structlog

from engine.backoff import backoff_s
from engine.contract import (
    NO_COUNTERS,
    EngineError,
    EngineSnapshot,
    EngineStartError,
    EngineState,
    EventSink,
    ModelInfo,
    WorkerSnapshot,
    WorkerState,
)
from engine.events import Failed, Finished, Prefill, Token
from engine.options import SupervisorOptions, WorkerOptions
from engine.requests import GenerationRequest, ModelInput, PartsInput
from engine.wire import (
    Cancel,
    Count,
    Counted,
    Heartbeat,
    Loading,
    Message,
    Pause,
    PromptPart,
    Ready,
    Resume,
    StartFailed,
    Submit,
    Tokenised,
)
from engine.worker_process import WorkerProcess
from flowcontrol.reasons import Reason

_log = structlog.get_logger("penstock.engine")

_WORKER_STATES = {
    EngineState.STARTING: WorkerState.STARTING,
    EngineState.READY: WorkerState.READY,
    EngineState.SUSPECT: WorkerState.SUSPECT,
    EngineState.DEAD: WorkerState.DEAD,
    EngineState.STOPPING: WorkerState.DRAINING,
}
# Part of stuck_after_s between two looks at the worker.
_LOOKS_PER_STUCK_TIME = 8

_REFUSALS: dict[EngineState, tuple[Reason, str]] = {
    EngineState.STARTING: (Reason.MODEL_LOADING, "the model is being loaded"),
    EngineState.DEAD: (Reason.MODEL_LOADING, "the model's worker process ended and is being restarted"),
    EngineState.SUSPECT: (Reason.WORKER_STUCK, "the model makes no progress"),
    EngineState.STOPPING: (Reason.DRAINING, "the server is shutting down"),
}


class WorkerEngine:
    """Implements Engine. A worker that dies fails its streams with WORKER_LOST and is started again."""

    def __init__(
        self,
        worker: WorkerOptions,
        supervisor: SupervisorOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker_options = worker
        self._options = supervisor
        self._clock = clock
        self._streams = itertools.count(1)
        self._calls = itertools.count(1)
        self._sinks: dict[int, EventSink] = {}
        # Streams whose last piece of prompt has not come: the worker keeps what came of it.
        self._open_prompts: set[int] = set()
        self._counting: dict[int, asyncio.Future[int]] = {}
        self._worker: WorkerProcess | None = None
        self._state = EngineState.STARTING
        self._model: ModelInfo | None = None
        self._cpu_blas = ""
        self._full_batch_step_s = 0.0
        self._loading: tuple[str, int, int] | None = None
        self._counters = NO_COUNTERS
        self._restarts = 0
        self._last_sign_s = 0.0
        self._supervision: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None

    async def start(self) -> None:
        self._started = asyncio.get_running_loop().create_future()
        self._supervision = asyncio.create_task(self._supervise(), name="worker supervision")
        await self._started

    async def stop(self) -> None:
        first = self._state is not EngineState.STOPPING
        self._state = EngineState.STOPPING
        self._sinks.clear()
        self._open_prompts.clear()
        self._end_counting(EngineError(Reason.DRAINING, "the server is shutting down"))
        if self._started is not None and not self._started.done():
            self._started.set_exception(EngineStartError("stopped before the model was loaded"))
        if self._supervision is not None:
            if first:  # A second one would break off the ending of the worker.
                self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)

    def check_ready(self) -> None:
        self._ready_worker()

    def prepare(self, request: GenerationRequest) -> int:
        return 0

    def forget(self, prepared: int) -> None:
        pass

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        worker = self._ready_worker()
        stream = next(self._streams)
        self._sinks[stream] = sink
        if isinstance(request.input, PartsInput):
            self._open_prompts.add(stream)
        worker.send(Submit(stream, request))
        return stream

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        if stream in self._open_prompts and self._worker is not None:
            self._worker.send(PromptPart(stream, text, last))
            if last:
                self._open_prompts.discard(stream)

    def cancel(self, stream: int) -> None:
        self._open_prompts.discard(stream)
        if self._sinks.pop(stream, None) is not None and self._worker is not None:
            self._worker.send(Cancel(stream))

    def pause(self, stream: int) -> None:
        if stream in self._sinks and self._worker is not None:
            self._worker.send(Pause(stream))

    def resume(self, stream: int) -> None:
        if stream in self._sinks and self._worker is not None:
            self._worker.send(Resume(stream))

    async def count_tokens(self, model_input: ModelInput) -> int:
        worker = self._ready_worker()
        call = next(self._calls)
        self._counting[call] = asyncio.get_running_loop().create_future()
        try:
            worker.send(Count(call, model_input))
            return await self._counting[call]
        finally:
            del self._counting[call]

    def snapshot(self) -> EngineSnapshot:
        state = self._current_state()
        worker = WorkerSnapshot(
            index=0,
            state=_WORKER_STATES[state],
            pid=self._worker.pid if self._worker is not None else 0,
            restarts=self._restarts,
            streams=len(self._sinks),
            counters=self._counters,
        )
        return EngineSnapshot(
            state=state,
            model=self._model,
            counters=self._counters,
            workers=(worker,),
            waiting=0,
            failovers=0,
            cpu_blas=self._cpu_blas,
            full_batch_step_s=self._full_batch_step_s,
            loading=self._loading,
        )

    def _current_state(self) -> EngineState:
        """The state now: a worker is suspect by the clock, not by an event."""
        silent_s = self._clock() - self._last_sign_s
        if self._state is EngineState.READY and silent_s > self._options.stuck_after_s:
            return EngineState.SUSPECT
        return self._state

    def _ready_worker(self) -> WorkerProcess:
        state = self._current_state()
        if state is EngineState.READY and self._worker is not None:
            return self._worker
        reason, message = _REFUSALS[state]
        raise EngineError(reason, message, retry_after_s=max(1.0, self._options.restart_backoff_initial_s))

    async def _supervise(self) -> None:
        """Keep a worker running until cancelled."""
        failures = 0
        while True:
            began_s = self._clock()
            try:
                error = await self._run_worker()
            except Exception as defect:  # Whatever it is, a new worker is better than none.
                _log.exception("worker supervision failed")
                error = f"{type(defect).__name__}: {defect}"
            if self._started is not None and not self._started.done():
                self._started.set_exception(EngineStartError(error))
                return
            self._state = EngineState.DEAD
            self._lose_streams(error)
            # A worker that served for a while did not fail because of how it was started.
            served_s = self._clock() - began_s
            failures = 1 if served_s > self._options.restart_backoff_max_s else failures + 1
            delay_s = backoff_s(
                failures,
                initial_s=self._options.restart_backoff_initial_s,
                max_s=self._options.restart_backoff_max_s,
            )
            _log.error("worker lost", error=error, restart_in_s=delay_s, failures=failures)
            await asyncio.sleep(delay_s)
            self._restarts += 1
            self._state = EngineState.STARTING

    async def _run_worker(self) -> str:
        """One worker from its start to its end. Returns why it ended."""
        worker = await WorkerProcess.spawn(self._worker_options)
        self._worker = worker
        watch: asyncio.Task[None] | None = None
        try:
            error = await self._until_ready(worker)
            if not error:
                watch = asyncio.create_task(self._watch(worker), name="worker watch")
                while messages := await worker.receive():
                    self._last_sign_s = self._clock()
                    for message in messages:
                        self._take(message)
        finally:
            if watch is None:
                worker.kill()  # Not ready yet: it has nothing to tidy up, and does not listen while it loads.
            else:
                watch.cancel()
            self._worker = None
            if self._state is EngineState.READY:
                self._state = EngineState.DEAD
            self._counters = NO_COUNTERS
            status = await worker.end(self._options.stop_timeout_s)
        return error or f"the worker process ended with exit status {status}"

    async def _until_ready(self, worker: WorkerProcess) -> str:
        """Wait for the model. Returns what went wrong, "" when nothing did."""
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                first = await self._until_loaded(worker)
        except TimeoutError:
            worker.kill()
            return f"the model was not ready within {self._options.start_timeout_s:g} s"
        finally:
            self._loading = None
        if isinstance(first, StartFailed):
            return first.message
        if not isinstance(first, Ready):
            return "the worker process ended while it loaded the model"
        self._model, self._cpu_blas = first.model, first.cpu_blas
        self._full_batch_step_s = first.full_batch_step_s
        self._last_sign_s = self._clock()
        self._state = EngineState.READY
        _log.info(
            "model ready", model=first.model.name, pid=worker.pid, cpu_blas=first.cpu_blas or "mlx's own"
        )
        if self._started is not None and not self._started.done():
            self._started.set_result(None)
        return ""

    async def _until_loaded(self, worker: WorkerProcess) -> Message | None:
        """The first message that is not about how far loading is; None when there is none."""
        while messages := await worker.receive():
            for message in messages:
                if not isinstance(message, Loading):
                    return message
                self._loading = (message.stage, message.done, message.total)
        return None

    async def _watch(self, worker: WorkerProcess) -> None:
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
                    "worker stuck, killing it", pid=worker.pid, kill_after_s=self._options.kill_after_s
                )
                worker.kill()
                return

    def _take(self, message: Message) -> None:
        match message:
            case Token() | Prefill():
                sink = self._sinks.get(message.stream)
                if sink is not None:
                    sink(message)
            case Finished() | Failed():
                self._take_end(message)
            case Heartbeat():
                self._counters = message.counters
            case Counted():
                self._take_count(message)
            case Ready() | StartFailed() | Loading() | Tokenised():
                _log.error("message out of place", message=type(message).__name__)

    def _take_end(self, message: Finished | Failed) -> None:
        sink = self._sinks.get(message.stream)
        if message.stream in self._open_prompts:
            self.cancel(message.stream)  # The worker forgets the pieces of its prompt.
        self._sinks.pop(message.stream, None)
        if sink is not None:
            sink(message)

    def _take_count(self, message: Counted) -> None:
        counting = self._counting.get(message.call)
        if counting is None or counting.done():
            return
        if message.reason is None:
            counting.set_result(message.tokens)
        else:
            counting.set_exception(EngineError(message.reason, message.message, field=message.field))

    def _lose_streams(self, error: str) -> None:
        """End every stream of a worker that is gone."""
        sinks, self._sinks = self._sinks, {}
        self._open_prompts.clear()
        text = f"the model's worker process was lost: {error}"
        for stream, sink in sinks.items():
            sink(Failed(stream, Reason.WORKER_LOST, text, ""))
        self._end_counting(EngineError(Reason.WORKER_LOST, text, retry_after_s=1.0))

    def _end_counting(self, error: EngineError) -> None:
        for counting in self._counting.values():
            if not counting.done():
                counting.set_exception(error)
