"""What the batch needs of whatever takes rows through the model."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from engine.events import TokenLogprobs
from engine.requests import Sampling

KvCache = list[Any]
"""KV cache of one row: mlx-lm's cache object of each layer."""


@dataclass(frozen=True, slots=True)
class RowInput:
    """A row to be taken up.

    tokens: to be computed, at least one. cache: KV of `covered`, the tokens before them, evaluated; it
    belongs to the generator from now on; None when nothing is covered. prompt_tokens: of covered and tokens
    together, how many are the prompt's; those after them were drawn before, so their number is the position
    of the next draw. ending_ids: not to be drawn before min_tokens output tokens. logprobs: None for none,
    else how many alternatives besides the drawn token's own. open: more tokens will follow, so all but the
    last one are computed, and the row then waits to be removed; it gets no token.
    """

    tokens: list[int]
    cache: KvCache | None
    covered: list[int]
    prompt_tokens: int
    sampling: Sampling
    min_tokens: int
    ending_ids: tuple[int, ...]
    logprobs: int | None
    open: bool


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """A row whose tokens are being computed. done, total: of RowInput.tokens.

    at_last: all but the last token are computed; the row is decoded now, unless it is open.
    """

    uid: int
    done: int
    total: int
    at_last: bool


class StepToken(msgspec.Struct, frozen=True, gc=False):
    """A row's next token. The row goes on until it is removed."""

    uid: int
    token_id: int
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave. model_s: seconds of it that were spent in MLX. prefill_s: that prompts took.

    tokens: at most one of each row, or several of one in their order where a draft model foresaw them.
    """

    prompts: list[PromptProgress]
    tokens: list[StepToken]
    model_s: float
    prefill_s: float = 0.0


class Generator(Protocol):
    """Takes rows through the model, all of them one step further with each call of next.

    Lives in the model thread. After an exception out of `next` it must not be used again: other rows could go
    on with wrong tokens.
    """

    def insert(self, row: RowInput) -> int:
        """Take a row up. Returns its uid. Raises before anything is changed."""

    def remove(self, uid: int) -> None:
        """Let a row go, wherever it is. An unknown uid is passed over."""

    def extract(self, uid: int) -> tuple[KvCache, list[int]] | None:
        """A row's KV, evaluated, and the tokens that it covers; None when it covers none.

        What is returned shares nothing with the generator. A row that is decoded is covered up to the token
        that it was last given, or up to the one before.
        """

    def next(self, prefill_tokens: int) -> Step:
        """One decode step of all rows that are decoded, and at most about prefill_tokens of the others.

        A row's first token may come with the call that computes the last of its prompt. A call may also give
        nothing.
        """

    @property
    def kv_bytes(self) -> int: ...

    def close(self) -> None: ...
