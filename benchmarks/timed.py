"""Measures the time that our code takes for each message, apart from grpc's and from waiting.

The servicer is used as it is, between an engine, a context and a coroutine that keep time. Counted are
the pieces that run without a break on the event loop: every step of the handler less what grpc's read
and write take of it, every call of the engine's sink, and what the reader of acks does between two reads.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from engine.contract import Engine, EngineSnapshot, EngineTuning, EventSink
from engine.events import Event, Token
from engine.model_host import ModelHost
from engine.requests import GenerationRequest, ModelInput
from flowcontrol.registry import StreamRegistry
from penstock.v1 import generation_pb2 as pb
from service.admission import Admission
from service.generation import Context, GenerationServicer
from service.message_pool import MessagePool
from service.options import StreamOptions

_now_ns = time.perf_counter_ns


class TimeSpent:
    """Samples of all streams, one for each chunk written, in nanoseconds."""

    def __init__(self) -> None:
        self.own_ns: list[int] = []
        self.wall_ns: list[int] = []

    def take(self) -> tuple[list[float], list[float]]:
        """All samples since the last take as (own, wall), in microseconds."""
        own, wall = ([value / 1e3 for value in values] for values in (self.own_ns, self.wall_ns))
        self.own_ns, self.wall_ns = [], []
        return own, wall


class _StreamClock:
    """Time of one stream since its last chunk. arrived_ns: of the tokens that wait to be written."""

    def __init__(self, spent: TimeSpent) -> None:
        self.own_ns = 0
        self.step_began_ns = 0
        self.arrived_ns: deque[int] = deque()
        self._spent = spent

    def chunk(self, tokens: int) -> None:
        """Our code hands a chunk to grpc now, in a step of the handler."""
        now_ns = _now_ns()
        self._spent.own_ns.append(self.own_ns + now_ns - self.step_began_ns)
        if self.arrived_ns:
            self._spent.wall_ns.append(now_ns - self.arrived_ns[0])
        for _ in range(min(tokens, len(self.arrived_ns))):
            self.arrived_ns.popleft()
        # What is left of this step counts for the next chunk, without what grpc takes of it.
        self.own_ns = 0
        self.step_began_ns = now_ns


class _Steps:
    """An awaitable that calls `before` and `after` around every step of another one."""

    def __init__(self, inner: Awaitable[Any], before: Callable[[], None], after: Callable[[], None]) -> None:
        self._inner = inner
        self._before = before
        self._after = after

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._inner.__await__()
        resume, argument = steps.send, None
        while True:
            self._before()
            try:
                waits_for = resume(argument)
            except StopIteration as stop:
                return stop.value
            finally:
                self._after()
            try:
                argument = yield waits_for
                resume = steps.send
            except BaseException as error:
                argument, resume = error, steps.throw


class TimedContext:
    """A context that keeps grpc's time out of its stream's. Everything else is the inner context's."""

    def __init__(self, inner: Context, clock: _StreamClock) -> None:
        self._inner = inner
        self._clock = clock
        self._grpc_began_ns = 0
        self._reads = 0
        self._read_at_ns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, message: pb.GenerateResponse) -> None:
        if message.HasField("chunk"):
            self._clock.chunk(len(message.chunk.token_ids))
        await _Steps(self._inner.write(message), self._enter_grpc, self._leave_grpc)

    async def read(self) -> Any:
        """The first is the handler's own; the others are the ack reader's, which is another task."""
        clock = self._clock
        self._reads += 1
        if self._reads == 1:
            return await _Steps(self._inner.read(), self._enter_grpc, self._leave_grpc)
        if self._reads > 2:
            clock.own_ns += _now_ns() - self._read_at_ns
        try:
            return await self._inner.read()
        finally:
            self._read_at_ns = _now_ns()

    def _enter_grpc(self) -> None:
        self._grpc_began_ns = _now_ns()

    def _leave_grpc(self) -> None:
        """As if the handler's step had begun later."""
        self._clock.step_began_ns += _now_ns() - self._grpc_began_ns


class TimedEngine:
    """An engine whose sinks are timed. `opening` is the clock of the stream that submits next."""

    def __init__(self, inner: Engine, spent: TimeSpent) -> None:
        self._inner = inner
        self._spent = spent
        self.opening = _StreamClock(spent)

    def prepare(self, request: GenerationRequest) -> int:
        return self._inner.prepare(request)

    def forget(self, prepared: int) -> None:
        self._inner.forget(prepared)

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        clock = self.opening

        def timed(event: Event) -> None:
            began_ns = _now_ns()
            if isinstance(event, Token):
                clock.arrived_ns.append(began_ns)
            sink(event)
            clock.own_ns += _now_ns() - began_ns

        return self._inner.submit(request, timed, prepared=prepared)

    def check_ready(self) -> None:
        self._inner.check_ready()

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        await self._inner.stop()

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        self._inner.add_prompt_part(stream, text, last=last)

    def cancel(self, stream: int) -> None:
        self._inner.cancel(stream)

    def pause(self, stream: int) -> None:
        self._inner.pause(stream)

    def resume(self, stream: int) -> None:
        self._inner.resume(stream)

    async def count_tokens(self, model_input: ModelInput) -> int:
        return await self._inner.count_tokens(model_input)

    def tune(self, tuning: EngineTuning) -> None:
        self._inner.tune(tuning)

    def restart_worker(self, index: int, why: str) -> None:
        self._inner.restart_worker(index, why)

    def snapshot(self) -> EngineSnapshot:
        return self._inner.snapshot()


class TimedServicer(GenerationServicer):
    """The servicer, each of its streams with a clock."""

    def __init__(
        self,
        engine: TimedEngine,
        registry: StreamRegistry,
        admission: Admission,
        options: StreamOptions,
        pool: MessagePool | None,
        *,
        spent: TimeSpent,
    ) -> None:
        super().__init__(ModelHost.of(engine), registry, admission, options, pool)
        self._timed_engine = engine
        self._spent = spent

    async def Generate(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        clock = _StreamClock(self._spent)

        def begin_step() -> None:
            self._timed_engine.opening = clock
            clock.step_began_ns = _now_ns()

        def end_step() -> None:
            clock.own_ns += _now_ns() - clock.step_began_ns

        timed: Any = TimedContext(context, clock)
        await _Steps(super().Generate(request_iterator, timed), begin_step, end_step)
