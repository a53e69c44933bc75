"""Runs the worker's step loop in the thread of the test, without processes or sockets."""

from collections.abc import Callable, Iterable

from engine.events import Event, Failed, Finished, Prefill, Token
from engine.mlx_worker.batch import Batch, MakeGenerator
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.prepare import Preparer
from engine.mlx_worker.row import Row
from engine.mlx_worker.step_loop import StepLoop
from engine.mlx_worker.text import DecoderFactory
from engine.requests import GenerationRequest
from engine.stop_strings import StopStringMatcher
from engine.wire import Cancel, Message, Stop
from tests.engine.requests import Sink
from tests.engine.subjects import DEFAULT_MAX_TOKENS, MAX_BATCH_ROWS

React = Callable[["LoopDriver", Event], None]


def nothing(driver: "LoopDriver", event: Event) -> None:
    """React to no event."""


class LoopDriver:
    """The other side of a StepLoop: hands rows over, sorts what it sends by stream, stops it at the end."""

    def __init__(self, loaded: LoadedModel, make_generator: MakeGenerator, *, react: React = nothing) -> None:
        self._preparer = Preparer(loaded.tokenizer, loaded.info, default_max_tokens=DEFAULT_MAX_TOKENS)
        self._decoders = DecoderFactory(loaded.tokenizer)
        self._react = react
        self.loop = StepLoop(
            Batch(make_generator, loaded.eos_token_ids),
            self._take,
            max_batch_rows=MAX_BATCH_ROWS,
            heartbeat_interval_s=1e9,
        )
        self.sinks: dict[int, Sink] = {}
        self._open: set[int] = set()

    def submit(self, request: GenerationRequest) -> Sink:
        prepared = self._preparer.prepare(request)
        stream = len(self.sinks) + 1
        self.sinks[stream] = Sink()
        self._open.add(stream)
        row = Row(
            stream=stream,
            prepared=prepared,
            decoder=self._decoders.make(prepared.prompt_ids),
            stops=StopStringMatcher(request.stopping.stop_strings),
            submitted_s=0.0,
        )
        self.loop.hand_over(row)
        return self.sinks[stream]

    def cancel(self, stream: int) -> None:
        self._open.discard(stream)
        self.loop.hand_over(Cancel(stream))
        self._stop_when_done()

    def run(self, requests: Iterable[GenerationRequest]) -> list[Sink]:
        """Run these streams, and those that `react` submits, to their ends."""
        first = [self.submit(request) for request in requests]
        self.loop.run()
        return first

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Prefill | Token | Finished | Failed):
                self.sinks[message.stream](message)
                if isinstance(message, Finished | Failed):
                    self._open.discard(message.stream)
                self._react(self, message)
        self._stop_when_done()

    def _stop_when_done(self) -> None:
        if not self._open:
            self.loop.hand_over(Stop())
