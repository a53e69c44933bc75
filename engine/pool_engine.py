"""The Engine that runs a model in worker processes: one queue, and streams that outlive their worker."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog

from engine.affinity import Affinity, block_keys
from engine.contract import (
    AS_CONFIGURED,
    EngineError,
    EngineSnapshot,
    EngineStartError,
    EngineState,
    EngineTuning,
    EventSink,
    WorkerSnapshot,
    WorkerState,
)
from engine.events import Assigned, Failed, Finished, Interrupted, Prefill, Token
from engine.options import PoolOptions, SupervisorOptions, WorkerOptions
from engine.pool_calls import PoolCalls
from engine.pool_state import no_such_worker, not_loaded, refusal, state_of, together
from engine.pool_worker import PoolWorker
from engine.requests import ChatInput, GenerationRequest, ModelInput, TextInput, TokenisedInput, field_of
from engine.routing import RoutingRule
from engine.stream_board import StreamBoard
from engine.stream_record import StreamRecord
from engine.warm_prompts import WarmPrompts
from engine.wire import (
    Cancel,
    Counted,
    Heartbeat,
    Loading,
    Message,
    Pause,
    PromptPart,
    Ready,
    Resume,
    StartFailed,
    Tokenised,
    Tune,
)
from engine.worker_process import WORKER_PROGRAM
from flowcontrol.reasons import Reason

_log = structlog.get_logger("penstock.engine")

# Blocks of inputs that are remembered of each worker: those of some hundred long prompts.
_AFFINITY_BLOCKS = 16384


class PoolEngine:
    """Implements Engine. The streams of a lost worker go on with another, or with the restarted one."""

    def __init__(
        self,
        worker: WorkerOptions,
        supervisor: SupervisorOptions,
        pool: PoolOptions,
        *,
        program: Sequence[str] = WORKER_PROGRAM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """program: what each worker process executes, see engine.worker_process."""
        self._clock = clock
        self._options = worker
        self._tuning = AS_CONFIGURED
        self._retry_after_s = max(1.0, supervisor.restart_backoff_initial_s)
        self._workers = tuple(
            PoolWorker(
                index, worker, supervisor, self, max_crashes=pool.max_crashes, program=program, clock=clock
            )
            for index in range(pool.workers)
        )
        self._board = StreamBoard(
            workers=pool.workers,
            rule=RoutingRule(worker.max_batch_rows, pool.min_batch_rows, pool.steal_threshold_rows),
            affinity=Affinity(_AFFINITY_BLOCKS),
        )
        self._calls = PoolCalls(WarmPrompts(max_prompts=pool.warm_prompts, ttl_s=pool.warm_ttl_s))
        self._numbers = itertools.count(1)
        self._ready: Ready | None = None
        self._failovers = 0
        self._stopping = False
        self._will_tell_positions = False
        self._started: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Returns when the first worker is ready; the others follow."""
        self._started = asyncio.get_running_loop().create_future()
        for worker in self._workers:
            worker.start()
        try:
            await self._started
        except EngineStartError:
            await self._end_workers()
            raise

    async def stop(self) -> None:
        self._stopping = True
        self._board.clear()
        self._calls.end(EngineError(Reason.DRAINING, "the server is shutting down"))
        for worker in self._workers:
            worker.drain()
        if self._started is not None and not self._started.done():
            self._started.set_exception(EngineStartError("stopped before the model was loaded"))
        await self._end_workers()

    def check_ready(self) -> None:
        state = self._state
        if state is not EngineState.READY:
            raise refusal(state, retry_after_s=self._retry_after_s)

    def prepare(self, request: GenerationRequest) -> int:
        worker = self._least_loaded()
        if worker is None or not isinstance(request.input, TextInput | ChatInput):
            return 0
        return self._calls.tokenise(worker, request, self._clock())

    def forget(self, prepared: int) -> None:
        self._calls.forget_warm(prepared)

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        self.check_ready()
        now_s = self._clock()
        record = StreamRecord(next(self._numbers), request, sink, block_keys(request), now_s)
        warm = self._calls.take_warm(prepared, now_s)
        if warm is not None:
            tokenised = TokenisedInput(warm.ids, field_of(request.input))
            record.request = msgspec.structs.replace(request, input=tokenised)
            record.warm_s = warm.took_s
        self._board.add(record)
        self._dispatch()
        return record.number

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        record = self._board.find(stream)
        if record is None or record.whole:
            return
        record.add_piece(text, last=last)
        if record.worker is not None:
            self._workers[record.worker].send(PromptPart(stream, text, last))
        elif last:
            self._dispatch()

    def cancel(self, stream: int) -> None:
        record = self._board.remove(stream)
        if record is not None:
            if record.worker is not None:
                self._workers[record.worker].send(Cancel(stream))
            self._dispatch()

    def pause(self, stream: int) -> None:
        record = self._board.find(stream)
        if record is not None:
            self._board.pause(record)
            if record.worker is not None:
                self._workers[record.worker].send(Pause(stream))
            self._dispatch()

    def resume(self, stream: int) -> None:
        record = self._board.find(stream)
        if record is not None:
            self._board.resume(record)
            if record.worker is not None:
                self._workers[record.worker].send(Resume(stream))
            self._dispatch()

    async def count_tokens(self, model_input: ModelInput) -> int:
        try:
            return await self._calls.count(self._any_ready(), model_input)
        except EngineError as error:
            another = self._least_loaded()
            if error.reason is not Reason.WORKER_LOST or another is None:
                raise
        return await self._calls.count(another, model_input)

    def tune(self, tuning: EngineTuning) -> None:
        self._tuning = tuning
        command = self._tune_command()
        for worker in self._workers:
            worker.send(command)

    def restart_worker(self, index: int, why: str) -> None:
        if not 0 <= index < len(self._workers):
            raise no_such_worker(index, len(self._workers))
        worker = self._workers[index]
        if not worker.restart(why):
            raise not_loaded(index, worker.state)

    def snapshot(self) -> EngineSnapshot:
        return EngineSnapshot(
            state=self._state,
            model=self._ready.model if self._ready is not None else None,
            counters=together([worker.counters for worker in self._workers]),
            workers=tuple(
                WorkerSnapshot(
                    index=worker.index,
                    state=worker.state,
                    pid=worker.pid,
                    restarts=worker.restarts,
                    streams=self._board.assigned(worker.index),
                    counters=worker.counters,
                    silent_s=worker.silent_s,
                )
                for worker in self._workers
            ),
            waiting=len(self._board.waiting),
            failovers=self._failovers,
            cpu_blas=self._ready.cpu_blas if self._ready is not None else "",
            full_batch_step_s=self._ready.full_batch_step_s if self._ready is not None else 0.0,
            loading=self._loading,
            tuning=self._tuning,
        )

    def worker_ready(self, worker: PoolWorker, ready: Ready) -> None:
        """See engine.pool_worker.Reports, as for the next three."""
        if self._stopping:
            return
        self._ready = ready
        if self._tuning != AS_CONFIGURED:
            worker.send(self._tune_command())
        if self._started is not None and not self._started.done():
            self._started.set_result(None)
        self._dispatch()

    def worker_says(self, worker: PoolWorker, messages: Sequence[Message]) -> None:
        for message in messages:
            match message:
                case Token():
                    record = self._board.find_on(message.stream, worker.index)
                    if record is not None:
                        self._take_token(record, message)
                case Prefill():
                    record = self._board.find_on(message.stream, worker.index)
                    # To the sink the prompt of a stream with tokens is computed.
                    if record is not None and not record.delivered:
                        record.sink(message)
                case Finished() | Failed():
                    self._take_end(worker, message)
                case Counted() | Tokenised():
                    self._calls.take(message)
                case Ready() | StartFailed() | Loading():
                    _log.error("message out of place", message=type(message).__name__)
                case Heartbeat():
                    worker.counters = message.counters
        if self._board.waiting:
            self._dispatch()  # A worker that was suspect may be ready again.

    def worker_lost(self, worker: PoolWorker, error: str, *, strikes: int) -> None:
        if self._started is not None and not self._started.done():
            self._started.set_exception(EngineStartError(error))
        if self._stopping:
            return
        self._calls.lose(worker.index)
        loss = self._board.lose(worker.index, strikes=strikes)
        if loss.going_on or loss.refused:
            _log.warning(
                "streams of a lost worker go on",
                worker=worker.index,
                streams=len(loss.going_on),
                on_trial=sum(record.on_trial for record in loss.going_on),
                refused=len(loss.refused),
            )
        self._dispatch()
        for record in loss.refused:
            text = "this request ended several worker processes in a row; it is not tried again"
            record.sink(Failed(record.number, Reason.POISON_REQUEST, text, ""))
        for record in loss.going_on:
            # A sink may have cancelled another one's stream.
            if self._board.find(record.number) is record:
                record.sink(Interrupted(record.number))

    def worker_gave_up(self, worker: PoolWorker) -> None:
        if self._state is not EngineState.FAILED:
            return
        text = "the model's worker processes were lost and are not started again"
        for record in self._board.clear():
            record.sink(Failed(record.number, Reason.WORKER_LOST, text, ""))

    @property
    def _state(self) -> EngineState:
        if self._stopping:
            return EngineState.STOPPING
        return state_of([worker.state for worker in self._workers])

    @property
    def _loading(self) -> tuple[str, int, int] | None:
        """How far the first worker that told so has loaded the model; None once one is ready."""
        told = (worker.loading for worker in self._workers if worker.loading is not None)
        loading = next(told, None) if self._ready is None else None
        return (loading.stage, loading.done, loading.total) if loading is not None else None

    def _tune_command(self) -> Tune:
        """What a worker is told: the values in force, since it knows only those."""
        options, tuning = self._options, self._tuning
        return Tune(
            _first(tuning.prefill_step_tokens, options.prefill_step_tokens),
            _first(tuning.max_prefix_cache_bytes, options.max_prefix_cache_bytes),
            _first(tuning.max_parked_kv_bytes, options.max_parked_kv_bytes),
        )

    def _least_loaded(self) -> PoolWorker | None:
        """Of the workers that are ready."""
        ready = [worker for worker in self._workers if worker.state is WorkerState.READY]
        return min(ready, key=lambda worker: self._board.unpaused(worker.index), default=None)

    def _any_ready(self) -> PoolWorker:
        self.check_ready()
        worker = self._least_loaded()
        assert worker is not None
        return worker

    def _take_token(self, record: StreamRecord, token: Token) -> None:
        proven = not record.unproven
        record.take_token(token.token_id, 0.0 if proven else self._clock())
        record.sink(token)
        if not proven and self._board.waiting:
            self._dispatch()  # For those on trial.

    def _take_end(self, worker: PoolWorker, end: Finished | Failed) -> None:
        record = self._board.find_on(end.stream, worker.index)
        if record is None:
            return
        self._board.remove(end.stream)
        if not record.whole:
            worker.send(Cancel(end.stream))  # It forgets the pieces of the prompt.
        self._dispatch()
        record.sink(record.finished(end, self._clock()) if isinstance(end, Finished) else end)

    def _dispatch(self) -> None:
        """Give the streams that wait to the workers that have room."""
        if not self._board.waiting:
            return
        ready = [worker.index for worker in self._workers if worker.state is WorkerState.READY]
        now_s = self._clock()
        for record in self._board.dispatch(ready):
            assert record.worker is not None
            record.given_s = now_s
            if record.lost:
                record.lost = False
                self._failovers += 1
            worker = self._workers[record.worker]
            for command in record.commands():
                worker.send(command)
            # Later: no event comes before submit has returned.
            assigned = Assigned(record.number, worker.index, worker.pid)
            asyncio.get_running_loop().call_soon(self._tell_assigned, record, assigned)
        if self._board.waiting and not self._will_tell_positions:
            self._will_tell_positions = True
            asyncio.get_running_loop().call_soon(self._tell_positions)

    def _tell_assigned(self, record: StreamRecord, assigned: Assigned) -> None:
        if self._board.find_on(assigned.stream, assigned.worker) is record:
            record.sink(assigned)

    def _tell_positions(self) -> None:
        """Tell those that wait of their new places. Later: no event comes before submit has returned."""
        self._will_tell_positions = False
        for position, record in enumerate(list(self._board.waiting), start=1):
            if record.position != position and not record.delivered and record.worker is None:
                record.position = position
                record.sink(Prefill(record.number, position, 0, 0))

    async def _end_workers(self) -> None:
        await asyncio.gather(*(worker.end() for worker in self._workers))


def _first(tuned: int | None, configured: int) -> int:
    return configured if tuned is None else tuned
