"""One stream inside the worker."""

from dataclasses import dataclass, field
from typing import Any

from engine.events import Finished, FinishReason
from engine.mlx_worker.prepare import PreparedRequest
from engine.mlx_worker.text import TokenDecoder
from engine.stop_strings import StopStringMatcher


@dataclass(slots=True)
class Parked:
    """KV cache of a row that is out of the batch, with the tokens that it covers."""

    cache: list[Any]
    tokens: list[int]


@dataclass(slots=True, eq=False)
class Row:
    """A stream from submission to its end. Owned by the model thread once it was submitted.

    Times are in seconds of one monotonic clock. uid: the row's number in the batch generator, None
    while it is not in there. paused: the reader has no credit.
    """

    stream: int
    prepared: PreparedRequest
    decoder: TokenDecoder
    stops: StopStringMatcher
    submitted_s: float
    generated: list[int] = field(default_factory=list)
    uid: int | None = None
    paused: bool = False
    parked: Parked | None = None
    prefill_began_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    queue_position: int = -1

    @property
    def tokens(self) -> list[int]:
        """Prompt and output so far: all that is needed to go on elsewhere."""
        return self.prepared.prompt_ids + self.generated

    @property
    def remaining_tokens(self) -> int:
        return self.prepared.max_tokens - len(self.generated)

    def add_token(self, token_id: int, now_s: float) -> str:
        """Take an output token and return the text that is certain now."""
        self.generated.append(token_id)
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.last_token_s = now_s
        may_stop = len(self.generated) >= self.prepared.request.stopping.min_tokens
        return self.stops.push(self.decoder.push(token_id), may_stop=may_stop)

    def finished(self, reason: FinishReason, *, stop_token_id: int | None, now_s: float) -> Finished:
        began = now_s if self.prefill_began_s is None else self.prefill_began_s
        first = now_s if self.first_token_s is None else self.first_token_s
        last = first if self.last_token_s is None else self.last_token_s
        return Finished(
            stream=self.stream,
            reason=reason,
            text=self.stops.flush(),
            stop_string=self.stops.stopped_by,
            stop_token_id=stop_token_id,
            prompt_tokens=len(self.prepared.prompt_ids),
            completion_tokens=len(self.generated),
            queue_s=began - self.submitted_s,
            prefill_s=first - began,
            decode_s=last - first,
        )
