"""One stream inside the worker."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

from engine.events import Finished, FinishReason
from engine.mlx_worker.prepare import PreparedRequest
from engine.mlx_worker.text import TokenDecoder
from engine.stop_strings import StopStringMatcher


@dataclass(slots=True)
class Parked:
    """KV cache of a row that is out of the batch, with the tokens that it covers."""

    cache: list[Any]
    tokens: list[int]

    @property
    def nbytes(self) -> int:
        return sum(int(layer.nbytes) for layer in self.cache)

    def trim_to(self, length: int) -> bool:
        """Cut off what is beyond so many tokens. False where that is impossible: the cache is of no use."""
        excess = len(self.tokens) - length
        if excess <= 0:
            return True
        if length <= 0 or not can_trim_prompt_cache(self.cache):
            return False
        trim_prompt_cache(self.cache, excess)
        del self.tokens[length:]
        return True


@dataclass(slots=True, eq=False)
class Row:
    """A stream from submission to its end. Owned by the model thread once it was submitted.

    Times are in seconds of one monotonic clock. whole: its prompt is all there; one that is not is
    only computed as far as it is known, and gives no token. supersedes: it is an open row whose prompt
    has grown. uid: the row's number in the batch generator, None while it is not in there. paused: the
    reader has no credit. generated: the output, resumed tokens included. prefill_done: tokens told to
    be computed. tokenise_s, cache_lookup_s: as in Finished. cached_tokens: of the prompt, found in the
    prefix cache. counted: it is in the counters of the prefix cache. prefix_version: of that cache when it
    was last searched. slice_done: of the tokens that were inserted, those computed. decoded: it has given a
    token since it was inserted. first_key: what its first token may be remembered by. guess: a remembered
    one that was sent; it is in `generated` once the model has given its own.
    """

    stream: int
    prepared: PreparedRequest
    decoder: TokenDecoder
    stops: StopStringMatcher
    submitted_s: float
    whole: bool = True
    supersedes: bool = False
    generated: list[int] = field(default_factory=list)
    uid: int | None = None
    paused: bool = False
    parked: Parked | None = None
    prefill_began_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    queue_position: int = -1
    prefill_done: int = 0
    tokenise_s: float = 0.0
    cache_lookup_s: float = 0.0
    cached_tokens: int = 0
    counted: bool = False
    prefix_version: int = -1
    slice_done: int = 0
    decoded: bool = False
    first_key: bytes | None = None
    guess: int | None = None

    @property
    def tokens(self) -> list[int]:
        """Prompt and output so far: all that is needed to go on elsewhere."""
        return self.prepared.prompt_ids + self.generated

    @property
    def covered_tokens(self) -> int:
        """Tokens whose KV is parked."""
        return len(self.parked.tokens) if self.parked is not None else 0

    @property
    def uncovered_tokens(self) -> int:
        """Tokens whose KV is neither parked nor in the batch."""
        return len(self.tokens) - self.covered_tokens

    def go_on_from(self, shorter: "Row") -> None:
        """Take over what was made of the beginning of the prompt."""
        self.paused = shorter.paused
        self.queue_position = shorter.queue_position
        self.prefill_began_s = shorter.prefill_began_s
        self.prefill_done = shorter.prefill_done
        self.cache_lookup_s += shorter.cache_lookup_s
        parked, shorter.parked = shorter.parked, None
        if parked is not None and parked.trim_to(common_prefix(parked.tokens, self.tokens)):
            self.parked = parked
            self.cached_tokens = min(shorter.cached_tokens, len(parked.tokens))

    def add_token(self, token_id: int, now_s: float) -> str:
        """Take an output token and return the text that is certain now."""
        self.generated.append(token_id)
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.last_token_s = now_s
        text = self.decoder.push(token_id)
        return self._certain(text) if self.stops.active else text

    def count_token(self, token_id: int, now_s: float) -> None:
        """Take an output token whose text is out already."""
        self.generated.append(token_id)
        if self.first_token_s is None:
            self.first_token_s = now_s
        self.last_token_s = now_s

    def guess_token(self, token_id: int) -> str:
        """Take the first token before the model has given it, and return its text."""
        self.guess = token_id
        self.generated.append(token_id)
        text = self._certain(self.decoder.push(token_id))
        # It is to be computed yet.
        self.generated.clear()
        return text

    def _certain(self, text: str) -> str:
        """The text that no stop string can begin in, now that the last of the tokens gave this much."""
        may_stop = len(self.generated) >= self.prepared.request.stopping.min_tokens
        return self.stops.push(text, may_stop=may_stop)

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
            cached_tokens=self.cached_tokens,
            queue_s=began - self.submitted_s,
            tokenise_s=self.tokenise_s,
            cache_lookup_s=self.cache_lookup_s,
            prefill_s=first - began,
            decode_s=last - first,
        )


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest beginning that both have."""
    least, most = 0, min(len(left), len(right))
    # By halves: comparing two slices is one step for Python.
    while least < most:
        middle = (least + most + 1) // 2
        if left[least:middle] == right[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least
