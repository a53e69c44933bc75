"""Runs the worker's step loop in the thread of the test, without processes or sockets."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from engine.contract import EngineCounters
from engine.events import Event, Failed, Finished, Prefill, Token
from engine.mlx_worker.batch import MakeGenerator
from engine.mlx_worker.intake import Intake
from engine.mlx_worker.make_loop import make_step_loop
from engine.mlx_worker.model import LoadedModel
from engine.requests import GenerationRequest
from engine.wire import Cancel, Heartbeat, Message, PromptPart, Stop, Submit
from tests.engine.requests import Sink
from tests.engine.subjects import DEFAULT_MAX_TOKENS, WORKER

# Less than a prompt of two sentences has.
PREFILL_STEP_TOKENS = 12

React = Callable[["LoopDriver", Event], None]


def nothing(driver: "LoopDriver", event: Event) -> None:
    """React to no event."""


class LoopDriver:
    """The other side of a StepLoop: submits, sorts what it sends by stream, stops it at the end.

    options: of WorkerOptions, where they differ from the usual ones of the tests. counters: of each turn of
    the loop. completed: for `react` to note whose last piece of prompt it has sent.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        make_generator: MakeGenerator,
        *,
        react: React = nothing,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self._react = react
        self.loop = make_step_loop(
            replace(
                WORKER, **{"prefill_step_tokens": PREFILL_STEP_TOKENS, "heartbeat_interval_s": 0.0} | options
            ),
            make_generator,
            self._take,
            clock=clock,
        )
        self.intake = Intake(loaded, self.loop.hand_over, self._take, default_max_tokens=DEFAULT_MAX_TOKENS)
        self.sinks: dict[int, Sink] = {}
        self.counters: list[EngineCounters] = []
        self.completed: set[int] = set()
        self._open: set[int] = set()
        self._stopping = False

    def submit(self, request: GenerationRequest) -> Sink:
        stream = len(self.sinks) + 1
        self.sinks[stream] = Sink()
        self._open.add(stream)
        self.intake.submit(Submit(stream, request))
        return self.sinks[stream]

    def add_part(self, stream: int, text: str, *, last: bool = False) -> None:
        self.intake.add(PromptPart(stream, text, last))

    def cancel(self, stream: int) -> None:
        self._open.discard(stream)
        self.intake.forget(stream)
        self.loop.hand_over(Cancel(stream))
        self._stop_when_done()

    def run(self, requests: Iterable[GenerationRequest]) -> list[Sink]:
        """Run these streams, and those that `react` submits, to their ends."""
        first = [self.submit(request) for request in requests]
        self.go()
        return first

    def go(self) -> None:
        """Run until every stream has ended."""
        self.loop.run()
        self._stopping = False

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Prefill | Token | Finished | Failed):
                self.sinks[message.stream](message)
                if isinstance(message, Finished | Failed):
                    self._open.discard(message.stream)
                self._react(self, message)
            elif isinstance(message, Heartbeat):
                self.counters.append(message.counters)
        self._stop_when_done()

    def _stop_when_done(self) -> None:
        if not self._open and not self._stopping:
            self._stopping = True
            self.loop.hand_over(Stop())
