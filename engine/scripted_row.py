"""One stream of the scripted engine."""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.contract import EventSink
from engine.events import Finished, FinishReason, Token, TokenLogprobs
from engine.requests import GenerationRequest
from engine.resumption import replay
from engine.stop_strings import StopStringMatcher


@dataclass(slots=True, eq=False)
class ScriptedRow:
    """A stream that has its whole prompt.

    script: never ends. running: in the batch; waiting: in the queue for it. ended: no more events.
    generated: output tokens, those resumed included. told_prefill: since it last (re)started.
    """

    stream: int
    request: GenerationRequest
    sink: EventSink
    script: Iterator[tuple[int, str]]
    ending_ids: frozenset[int]
    stops: StopStringMatcher
    prompt_tokens: int
    max_tokens: int
    vocab_size: int
    generated: int = 0
    paused: bool = False
    running: bool = False
    waiting: bool = False
    ended: bool = False
    told_prefill: bool = False
    began_step: int | None = None

    def replay(self) -> FinishReason | None:
        """Skip the tokens that the caller holds. Returns and raises as engine.resumption.replay does."""
        finish = replay(
            self.request,
            max_tokens=self.max_tokens,
            ending_ids=self.ending_ids,
            text_of=lambda token_id: next(self.script)[1],
            stops=self.stops,
        )
        self.generated = len(self.request.resume_ids)
        return finish

    def advance(self) -> tuple[FinishReason, int | None] | None:
        """Give the next token to the sink, or none where a stop token comes.

        Returns why the stream has ended and its stop token, None when it goes on.
        """
        stopping = self.request.stopping
        token_id, text = next(self.script)
        if token_id in self.ending_ids and self.generated >= stopping.min_tokens:
            return FinishReason.STOP, token_id
        self.generated += 1
        stops = self.stops
        if stopping.stop_strings:
            text = stops.push(text, may_stop=self.generated >= stopping.min_tokens)
        logprobs = None if self.request.logprobs is None else self._logprobs(token_id, self.request.logprobs)
        self.sink(Token(self.stream, token_id, text, logprobs))
        if stops.stopped_by:
            return FinishReason.STOP, None
        if self.generated >= self.max_tokens:
            return FinishReason.LENGTH, None
        return None

    def finished(self, reason: FinishReason, stop_token_id: int | None, decode_s: float) -> Finished:
        return Finished(
            self.stream, reason, self.stops.flush(), self.stops.stopped_by, stop_token_id,
            self.prompt_tokens, self.generated, 0, 0.0, 0.0, 0.0, 0.0, decode_s,
        )  # fmt: skip

    def _logprobs(self, token_id: int, alternatives: int) -> TokenLogprobs:
        """The token itself and its successors by number, each less likely by a factor of e."""
        top = (((token_id + rank) % self.vocab_size, -float(rank)) for rank in range(alternatives))
        return TokenLogprobs(0.0, tuple(top))
