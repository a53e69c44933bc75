"""A deterministic Engine without a model, for tests, and for measuring everything around a model."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import msgspec

from engine.contract import (
    AS_CONFIGURED,
    NO_COUNTERS,
    EngineError,
    EngineSnapshot,
    EngineState,
    EngineTuning,
    EventSink,
    ModelInfo,
    WorkerSnapshot,
    WorkerState,
)
from engine.events import Failed, Finished, FinishReason, Interrupted, Prefill
from engine.pool_state import no_such_worker, not_loaded, refusal
from engine.requests import GenerationRequest, ModelInput, PartsInput, TokenInput, field_of
from engine.resumption import FIELD as RESUME_FIELD
from engine.scripted_prompt import PromptPieces, count_words
from engine.scripted_row import ScriptedRow
from engine.stop_strings import StopStringMatcher
from flowcontrol.reasons import Reason

EOS_TOKEN_ID = 0
_WORKER_STATES = {
    EngineState.STARTING: WorkerState.STARTING,
    EngineState.READY: WorkerState.READY,
    EngineState.SUSPECT: WorkerState.SUSPECT,
    EngineState.DEAD: WorkerState.DEAD,
    EngineState.FAILED: WorkerState.CRASH_LOOP,
    EngineState.STOPPING: WorkerState.DRAINING,
}
_TOO_LONG = "does not fit the context"
Script = Callable[[GenerationRequest], Iterable[tuple[int, str]]]
"""What a request is answered with: (token id, text) one by one; EOS_TOKEN_ID or the end ends it."""


def counting_script(request: GenerationRequest) -> Iterator[tuple[int, str]]:
    """Never ends by itself: " 1", " 2", " 3" ..., with token ids that count up too."""
    for number in itertools.count(1):
        yield number, f" {number}"


class ScriptedEngine:
    """Implements Engine. A prompt's tokens are its words; its vocabulary is vocab_size ids.

    step() gives one token to every running row. start() begins a task that makes steps_per_turn
    steps every step_s seconds (0: in each turn of the loop); with step_s None only the owner calls
    step(). A request that came in pieces reaches the script with its text in one. There is neither a prefix
    cache nor a guess, so prefix_cache and speculate change nothing; the script sees them.
    """

    def __init__(
        self,
        script: Script,
        *,
        step_s: float | None,
        steps_per_turn: int = 1,
        max_batch_rows: int = 8,
        context_tokens: int = 4096,
        default_max_tokens: int = 2000,
        vocab_size: int = 100_000,
    ) -> None:
        self._script = script
        self._step_s = step_s
        self._steps_per_turn = steps_per_turn
        self._max_batch_rows = max_batch_rows
        self._default_max_tokens = default_max_tokens
        self._model = ModelInfo(
            "scripted", "scripted", "scripted", 0, vocab_size, context_tokens, True, "scripted", 0.0
        )
        self._state = EngineState.STARTING
        self._streams = itertools.count(1)
        self._pieces: dict[int, PromptPieces] = {}
        self._rows: dict[int, ScriptedRow] = {}
        self._running: list[ScriptedRow] = []
        self._waiting: deque[ScriptedRow] = deque()
        self._undelivered: dict[int, tuple[EventSink, Failed | Finished]] = {}
        # Whether rows may have to enter or leave the batch before the next step.
        self._batch_is_old = False
        self._steps = 0
        self._generated = 0
        self._restarts = 0
        self._failovers = 0
        self._tuning = AS_CONFIGURED
        self._work = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._state = EngineState.READY
        if self._step_s is not None:
            self._stepping = asyncio.create_task(self._keep_stepping(self._step_s), name="scripted steps")

    async def stop(self) -> None:
        self._state = EngineState.STOPPING
        self._forget_streams()
        if self._stepping is not None:
            self._stepping.cancel()
            await asyncio.gather(self._stepping, return_exceptions=True)

    def check_ready(self) -> None:
        if self._state is not EngineState.READY:
            raise refusal(self._state, retry_after_s=1.0)

    def prepare(self, request: GenerationRequest) -> int:
        """Nothing is prepared: a prompt's tokens are its words."""
        return 0

    def forget(self, prepared: int) -> None:
        pass

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        self.check_ready()
        stream = next(self._streams)
        try:
            self._check_ids(request)
        except EngineError as error:
            self._refuse(stream, sink, error)
            return stream
        if isinstance(request.input, PartsInput):
            self._pieces[stream] = PromptPieces(request, sink)
        else:
            self._take_up(stream, request, sink, field_of(request.input))
        return stream

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        pieces = self._pieces.get(stream)
        if pieces is None:
            return
        pieces.add(text)
        field = field_of(pieces.request.input)
        if not last:
            if pieces.words >= self._model.context_tokens:
                del self._pieces[stream]
                self._refuse(stream, pieces.sink, _invalid(field, _TOO_LONG))
            return
        del self._pieces[stream]
        request = msgspec.structs.replace(pieces.request, input=pieces.joined())
        self._take_up(stream, request, pieces.sink, field)
        if pieces.paused:
            self.pause(stream)

    def cancel(self, stream: int) -> None:
        self._undelivered.pop(stream, None)
        self._pieces.pop(stream, None)
        row = self._rows.pop(stream, None)
        if row is not None:
            self._end(row)

    def pause(self, stream: int) -> None:
        self._set_paused(stream, True)

    def resume(self, stream: int) -> None:
        self._set_paused(stream, False)

    async def count_tokens(self, model_input: ModelInput) -> int:
        self.check_ready()
        if isinstance(model_input, PartsInput):
            raise _invalid(field_of(model_input), "cannot be counted before it is there")
        return count_words(model_input)

    def tune(self, tuning: EngineTuning) -> None:
        """There is nothing that it would change: prompts take no time and leave nothing."""
        self._tuning = tuning

    def restart_worker(self, index: int, why: str) -> None:
        if index:
            raise no_such_worker(index, 1)
        if self._state is not EngineState.READY:
            raise not_loaded(index, _WORKER_STATES[self._state])
        self._restarts += 1
        for stream in (*self._rows, *self._pieces):
            # A sink may have cancelled another one's stream.
            if stream in self._rows or stream in self._pieces:
                self._failovers += 1
                self.interrupt(stream)

    def snapshot(self) -> EngineSnapshot:
        rows = self._rows.values()
        counters = replace(
            NO_COUNTERS,
            running_rows=sum(row.running and not row.paused for row in rows),
            waiting_rows=sum(row.waiting and not row.paused for row in rows) + len(self._pieces),
            paused_rows=sum(row.paused for row in rows),
            decode_steps=self._steps,
            generated_tokens=self._generated,
        )
        worker = WorkerSnapshot(0, _WORKER_STATES[self._state], 0, self._restarts, len(self._rows), counters)
        return EngineSnapshot(
            state=self._state,
            model=self._model,
            counters=counters,
            workers=(worker,),
            waiting=0,
            failovers=self._failovers,
            cpu_blas="",
            full_batch_step_s=0.0,
            tuning=self._tuning,
        )

    def fail(self, stream: int, reason: Reason, message: str) -> None:
        """End one stream with an error, as a model that raises would."""
        row = self._rows.pop(stream)
        self._end(row)
        row.sink(Failed(stream, reason, message, ""))

    def interrupt(self, stream: int) -> None:
        """Let a stream lose its worker and go on with another, where it computes prompt and output again."""
        if stream in self._pieces:
            self._pieces[stream].sink(Interrupted(stream))
            return
        row = self._rows[stream]
        row.told_prefill = False
        if row.running:
            row.running = False
            self._running = [other for other in self._running if other is not row]
            if not row.paused:
                row.waiting = True
                self._waiting.append(row)
        self._wake()
        row.sink(Interrupted(stream))

    def die(self, *, for_good: bool = False) -> None:
        """Lose every stream, as a worker that is killed does. revive() brings the engine back.

        for_good: as a worker in a crash loop.
        """
        sinks = [(stream, sink) for stream, (sink, _) in self._undelivered.items()]
        sinks += [(stream, pieces.sink) for stream, pieces in self._pieces.items()]
        sinks += [(stream, row.sink) for stream, row in self._rows.items()]
        self._forget_streams()
        self._state = EngineState.FAILED if for_good else EngineState.DEAD
        for stream, sink in sinks:
            sink(Failed(stream, Reason.WORKER_LOST, "the scripted engine died", ""))

    def revive(self) -> None:
        self._state = EngineState.READY
        self._restarts += 1

    def step(self) -> None:
        """One decode step: rows join, then every running row gets one token."""
        while self._undelivered:
            sink, end = self._undelivered.pop(next(iter(self._undelivered)))
            sink(end)
        if self._batch_is_old:
            self._join()
        if self._running:
            self._steps += 1
        for row in self._running:
            if row.ended:
                continue  # A sink has cancelled it in this very step.
            ended = row.advance()
            if ended is None:
                self._generated += 1
                continue
            reason, stop_token_id = ended
            self._generated += stop_token_id is None
            self._finish(row, reason, stop_token_id)

    async def _keep_stepping(self, step_s: float) -> None:
        while True:
            for _ in range(self._steps_per_turn):
                self.step()
                if not (self._running or self._undelivered or self._batch_is_old):
                    break
            if not (self._running or self._undelivered or self._batch_is_old):
                self._work.clear()
                await self._work.wait()
            await asyncio.sleep(step_s)

    def _join(self) -> None:
        """Rows that ended or pause leave the batch and its queue; rows that wait take the places."""
        self._batch_is_old = False
        for row in self._running:
            row.running = not (row.ended or row.paused)
        running = [row for row in self._running if row.running]
        # A new list: the old one may be under way in a step.
        self._running = running
        while self._waiting and len(running) < self._max_batch_rows:
            row = self._waiting.popleft()
            row.waiting = False
            if row.paused:
                continue  # Resume puts it back.
            row.running = True
            running.append(row)
            if row.began_step is None:
                row.began_step = self._steps
            if not row.told_prefill:
                row.told_prefill = True
                total = row.prompt_tokens + row.generated
                row.sink(Prefill(row.stream, 0, total, total))

    def _set_paused(self, stream: int, paused: bool) -> None:
        if stream in self._pieces:
            self._pieces[stream].paused = paused
        row = self._rows.get(stream)
        if row is None or row.paused == paused:
            return
        row.paused = paused
        if not paused and not row.running and not row.waiting:
            row.waiting = True
            self._waiting.appendleft(row)
        self._wake()

    def _wake(self) -> None:
        self._batch_is_old = True
        self._work.set()

    def _finish(self, row: ScriptedRow, reason: FinishReason, stop_token_id: int | None) -> None:
        if self._rows.pop(row.stream, None) is None:
            return  # The sink cancelled the stream while it took the token.
        self._end(row)
        decode_s = (self._steps - (row.began_step or 0)) * (self._step_s or 0.0)
        row.sink(row.finished(reason, stop_token_id, decode_s))

    def _end(self, row: ScriptedRow) -> None:
        row.ended = True
        if row.waiting:
            self._waiting.remove(row)
        self._batch_is_old = True

    def _forget_streams(self) -> None:
        for row in self._rows.values():
            row.ended = True  # A step may be under way.
        self._rows.clear()
        self._pieces.clear()
        self._running = []
        self._waiting.clear()
        self._undelivered.clear()

    def _refuse(self, stream: int, sink: EventSink, error: EngineError) -> None:
        self._undelivered[stream] = (sink, Failed(stream, error.reason, error.message, error.field))
        self._work.set()

    def _take_up(self, stream: int, request: GenerationRequest, sink: EventSink, field: str) -> None:
        """Queue a stream whose prompt is whole, or note how it ends at once."""
        try:
            row = self._row(stream, request, sink, field)
            end = row.replay()
        except EngineError as error:
            self._refuse(stream, sink, error)
            return
        if end is not None:
            self._undelivered[stream] = (sink, row.finished(end, None, 0.0))
            self._work.set()
            return
        self._rows[stream] = row
        row.waiting = True
        self._waiting.append(row)
        self._wake()

    def _check_ids(self, request: GenerationRequest) -> None:
        for name, ids in (
            ("sampling.top_k", [request.sampling.top_k]),
            ("sampling.logit_bias", request.sampling.logit_bias),
            ("stopping.stop_token_ids", request.stopping.stop_token_ids),
            (RESUME_FIELD, request.resume_ids),
            ("tokens.ids", request.input.ids if isinstance(request.input, TokenInput) else ()),
        ):
            if max(ids, default=0) >= self._model.vocab_size:
                raise _invalid(name, "beyond the vocabulary")

    def _row(self, stream: int, request: GenerationRequest, sink: EventSink, field: str) -> ScriptedRow:
        """Raises EngineError for what only the model can tell, as a real engine does."""
        stopping = request.stopping
        prompt_tokens = count_words(request.input)
        room = self._model.context_tokens - prompt_tokens
        max_tokens = stopping.max_tokens or min(room, self._default_max_tokens)
        if prompt_tokens < 1 or room < 1:
            raise _invalid(field, _TOO_LONG)
        for name, wanted, most in (
            ("stopping.max_tokens", max_tokens, room),
            ("stopping.min_tokens", stopping.min_tokens, max_tokens),
        ):
            if wanted > most:
                raise _invalid(name, f"allowed: at most {most}")
        own_ending = frozenset[int]() if stopping.ignore_eos else {EOS_TOKEN_ID}
        return ScriptedRow(
            stream=stream,
            request=request,
            sink=sink,
            script=itertools.chain(self._script(request), itertools.repeat((EOS_TOKEN_ID, ""))),
            ending_ids=frozenset(stopping.stop_token_ids) | own_ending,
            stops=StopStringMatcher(stopping.stop_strings),
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            vocab_size=self._model.vocab_size,
        )


def _invalid(field: str, message: str) -> EngineError:
    return EngineError(Reason.INVALID_REQUEST, f"{field}: {message}", field=field)
