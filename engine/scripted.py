"""A deterministic Engine without a model, for tests, and for measuring everything around a model."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from engine.contract import (
    EngineCounters,
    EngineError,
    EngineSnapshot,
    EngineState,
    EventSink,
    ModelInfo,
)
from engine.events import Failed, Finished, FinishReason, Prefill, Token, TokenLogprobs
from engine.requests import ChatInput, GenerationRequest, ModelInput, TextInput, TokenInput, field_of
from engine.stop_strings import StopStringMatcher
from flowcontrol.reasons import Reason

EOS_TOKEN_ID = 0
Script = Callable[[GenerationRequest], Iterable[tuple[int, str]]]
"""What a request is answered with: (token id, text) one by one; EOS_TOKEN_ID or the end ends it."""


def counting_script(request: GenerationRequest) -> Iterator[tuple[int, str]]:
    """Never ends by itself: " 1", " 2", " 3" ..., with token ids that count up too."""
    for number in itertools.count(1):
        yield number, f" {number}"


@dataclass(slots=True, eq=False)
class _Row:
    stream: int
    request: GenerationRequest
    sink: EventSink
    script: Iterator[tuple[int, str]]
    stops: StopStringMatcher
    prompt_tokens: int
    max_tokens: int
    began_step: int | None = None
    generated: int = 0
    paused: bool = False


@dataclass(slots=True)
class _Counts:
    steps: int = 0
    generated: int = 0
    restarts: int = 0
    streams: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class ScriptedEngine:
    """Implements Engine. A prompt's tokens are its words; its vocabulary is vocab_size ids.

    step() gives one token to every running row. start() begins a task that steps every step_s
    seconds (0: as fast as the loop allows); with step_s None only the owner calls step().
    """

    def __init__(
        self,
        script: Script,
        *,
        step_s: float | None,
        max_batch_rows: int,
        context_tokens: int,
        default_max_tokens: int,
        vocab_size: int,
    ) -> None:
        self._script = script
        self._step_s = step_s
        self._max_batch_rows = max_batch_rows
        self._default_max_tokens = default_max_tokens
        self._model = ModelInfo("scripted", "scripted", "scripted", 0, vocab_size, context_tokens, True)
        self._state = EngineState.STARTING
        self._rows: dict[int, _Row] = {}
        self._running: list[_Row] = []
        self._waiting: deque[_Row] = deque()
        self._undelivered: dict[int, tuple[EventSink, Failed]] = {}
        self._counts = _Counts()
        self._work = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._state = EngineState.READY
        if self._step_s is not None:
            self._stepping = asyncio.create_task(self._keep_stepping(self._step_s), name="scripted steps")

    async def stop(self) -> None:
        self._state = EngineState.STOPPING
        self._forget_rows()
        if self._stepping is not None:
            self._stepping.cancel()
            await asyncio.gather(self._stepping, return_exceptions=True)

    def submit(self, request: GenerationRequest, sink: EventSink) -> int:
        self._check_ready()
        stream = next(self._counts.streams)
        self._work.set()
        try:
            row = self._row(stream, request, sink)
        except EngineError as error:
            self._undelivered[stream] = (sink, Failed(stream, error.reason, error.message, error.field))
            return stream
        self._rows[stream] = row
        self._waiting.append(row)
        return stream

    def cancel(self, stream: int) -> None:
        self._undelivered.pop(stream, None)
        row = self._rows.pop(stream, None)
        if row is not None:
            self._leave(row)

    def pause(self, stream: int) -> None:
        if stream in self._rows:
            self._rows[stream].paused = True

    def resume(self, stream: int) -> None:
        row = self._rows.get(stream)
        if row is None or not row.paused:
            return
        row.paused = False
        if row not in self._running and row not in self._waiting:
            self._waiting.appendleft(row)
        self._work.set()

    async def count_tokens(self, model_input: ModelInput) -> int:
        self._check_ready()
        return self._count(model_input)

    def snapshot(self) -> EngineSnapshot:
        paused = sum(row.paused for row in self._rows.values())
        counters = EngineCounters(
            running_rows=sum(not row.paused for row in self._running),
            waiting_rows=sum(not row.paused for row in self._waiting),
            paused_rows=paused,
            kv_bytes=0,
            decode_steps=self._counts.steps,
            generated_tokens=self._counts.generated,
            max_cancel_delay_steps=0,
            rss_bytes=0,
        )
        return EngineSnapshot(self._state, self._model, counters, 0, self._counts.restarts, "")

    def fail(self, stream: int, reason: Reason, message: str) -> None:
        """End one stream with an error, as a model that raises would."""
        row = self._rows.pop(stream)
        self._leave(row)
        row.sink(Failed(stream, reason, message, ""))

    def die(self) -> None:
        """Lose every stream, as a worker that is killed does. revive() brings the engine back."""
        rows = list(self._rows.values())
        self._forget_rows()
        self._state = EngineState.DEAD
        for row in rows:
            row.sink(Failed(row.stream, Reason.WORKER_LOST, "the scripted engine died", ""))

    def revive(self) -> None:
        self._state = EngineState.READY
        self._counts.restarts += 1

    def step(self) -> None:
        """One decode step: rows join, then every running row gets one token."""
        while self._undelivered:
            sink, failed = self._undelivered.pop(next(iter(self._undelivered)))
            sink(failed)
        self._join()
        live = list(self._running)
        if live:
            self._counts.steps += 1
        for row in live:
            if row.stream in self._rows:  # A sink may have cancelled it in this very step.
                self._advance(row)

    async def _keep_stepping(self, step_s: float) -> None:
        while True:
            if not self._undelivered and all(row.paused for row in self._rows.values()):
                self._work.clear()
                await self._work.wait()
            self.step()
            await asyncio.sleep(step_s)

    def _join(self) -> None:
        """Paused rows leave the batch and its queue; rows that wait take the places."""
        self._running = [row for row in self._running if not row.paused]
        while self._waiting and len(self._running) < self._max_batch_rows:
            row = self._waiting.popleft()
            if row.paused:
                continue  # Resume puts it back.
            self._running.append(row)
            if row.began_step is None:
                row.began_step = self._counts.steps
                row.sink(Prefill(row.stream, 0, row.prompt_tokens, row.prompt_tokens))

    def _advance(self, row: _Row) -> None:
        """Give a row its next token, or end it."""
        stopping = row.request.stopping
        token_id, text = next(row.script, (EOS_TOKEN_ID, ""))
        ends = token_id in stopping.stop_token_ids or (token_id == EOS_TOKEN_ID and not stopping.ignore_eos)
        if ends and row.generated >= stopping.min_tokens:
            self._finish(row, FinishReason.STOP, token_id)
            return
        row.generated += 1
        self._counts.generated += 1
        text = row.stops.push(text, may_stop=row.generated >= stopping.min_tokens)
        alternatives = row.request.logprobs
        logprobs = None
        if alternatives is not None:
            top = (((token_id + rank) % self._model.vocab_size, -float(rank)) for rank in range(alternatives))
            logprobs = TokenLogprobs(0.0, tuple(top))
        row.sink(Token(row.stream, token_id, text, logprobs))
        if row.stops.stopped_by:
            self._finish(row, FinishReason.STOP, None)
        elif row.generated >= row.max_tokens:
            self._finish(row, FinishReason.LENGTH, None)

    def _finish(self, row: _Row, reason: FinishReason, stop_token_id: int | None) -> None:
        if self._rows.pop(row.stream, None) is None:
            return  # The sink cancelled the stream while it took the token.
        self._leave(row)
        seconds = (self._counts.steps - (row.began_step or 0)) * (self._step_s or 0.0)
        row.sink(
            Finished(
                row.stream, reason, row.stops.flush(), row.stops.stopped_by, stop_token_id,
                row.prompt_tokens, row.generated, 0.0, 0.0, seconds,
            )
        )  # fmt: skip

    def _leave(self, row: _Row) -> None:
        if row in self._running:
            self._running.remove(row)
        elif row in self._waiting:
            self._waiting.remove(row)

    def _forget_rows(self) -> None:
        self._rows.clear()
        self._running.clear()
        self._waiting.clear()
        self._undelivered.clear()

    def _check_ready(self) -> None:
        if self._state is not EngineState.READY:
            reason = Reason.DRAINING if self._state is EngineState.STOPPING else Reason.MODEL_LOADING
            raise EngineError(reason, f"the scripted engine is {self._state}", retry_after_s=1.0)

    def _count(self, model_input: ModelInput) -> int:
        match model_input:
            case TextInput():
                return len(model_input.text.split())
            case ChatInput():
                return sum(len(content.split()) for _, content in model_input.messages)
        return len(model_input.ids)

    def _row(self, stream: int, request: GenerationRequest, sink: EventSink) -> _Row:
        """Raises EngineError for what only the model can tell, as a real engine does."""
        for name, ids in (
            ("sampling.top_k", [request.sampling.top_k]),
            ("sampling.logit_bias", request.sampling.logit_bias),
            ("stopping.stop_token_ids", request.stopping.stop_token_ids),
            ("tokens.ids", request.input.ids if isinstance(request.input, TokenInput) else ()),
        ):
            if max(ids, default=0) >= self._model.vocab_size:
                raise EngineError(Reason.INVALID_REQUEST, f"{name}: beyond the vocabulary", field=name)
        prompt_tokens = self._count(request.input)
        room = self._model.context_tokens - prompt_tokens
        max_tokens = request.stopping.max_tokens or min(room, self._default_max_tokens)
        if prompt_tokens < 1 or room < 1:
            name = field_of(request.input)
            raise EngineError(Reason.INVALID_REQUEST, f"{name}: does not fit the context", field=name)
        for name, wanted, most in (
            ("stopping.max_tokens", max_tokens, room),
            ("stopping.min_tokens", request.stopping.min_tokens, max_tokens),
        ):
            if wanted > most:
                raise EngineError(Reason.INVALID_REQUEST, f"{name}: allowed: at most {most}", field=name)
        stops = StopStringMatcher(request.stopping.stop_strings)
        script = iter(self._script(request))
        return _Row(stream, request, sink, script, stops, prompt_tokens, max_tokens)
