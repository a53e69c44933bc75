"""Prompts on their way into the decode batch: all but the last token of each is computed here."""

import copy
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache

from engine.mlx_worker.generator import KvCache, PromptProgress, RowInput
from engine.mlx_worker.model_clock import ModelClock
from engine.mlx_worker.prefill_plan import Slice, passes, share_out
from engine.mlx_worker.step_pipeline import DecodeRow

# After so many tokens, memory that MLX keeps for reuse is given back: passes differ in shape.
_CLEAR_CACHE_TOKENS = 2048


@dataclass(slots=True, eq=False)
class _Prompt:
    """tokens: those that cache covers. done: how many of row.tokens are among them.

    held: an open row whose last token is all that is left, which is so until the row is removed.
    """

    uid: int
    row: RowInput
    cache: KvCache
    tokens: list[int]
    done: int = 0
    held: bool = False

    @property
    def remaining(self) -> int:
        """The last token is left to the decode batch: its logits are the first that are needed."""
        return len(self.row.tokens) - 1 - self.done

    def advance(self, tokens: int) -> list[int]:
        """Count the next tokens as computed, and return them."""
        part = self.row.tokens[self.done : self.done + tokens]
        self.done += tokens
        self.tokens += part
        return part

    @property
    def joins(self) -> bool:
        """Whether it is ready to be decoded."""
        return not self.remaining and not self.row.open

    def progress(self) -> PromptProgress:
        total = len(self.row.tokens)
        # Of a row that begins with its last token nothing else can be told.
        return PromptProgress(self.uid, self.done if total > 1 else 1, total, at_last=not self.remaining)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a call of PrefillRows.run did. caches: batch caches of the rows that are ready to be decoded."""

    progress: list[PromptProgress]
    rows: list[DecodeRow]
    caches: list[KvCache]


class PrefillRows:
    """Lives in the model thread. After an exception out of `run` it must not be used again."""

    def __init__(self, model: nn.Module, *, max_pass_rows: int, clock: ModelClock) -> None:
        """max_pass_rows: most prompts that go through the model together."""
        self._model = model
        self._max_pass_rows = max_pass_rows
        self._clock = clock
        # A state of a fixed size would take the padding in with some models (mamba).
        self._padded = can_trim_prompt_cache(make_prompt_cache(model))
        # Longest waiting first.
        self._prompts: list[_Prompt] = []
        self._since_clear = 0

    @property
    def kv_bytes(self) -> int:
        return sum(int(layer.nbytes) for prompt in self._prompts for layer in prompt.cache)

    @property
    def has_work(self) -> bool:
        """Whether any prompt may go on; one that is held at its last token may not."""
        return any(not prompt.held for prompt in self._prompts)

    def insert(self, uid: int, row: RowInput) -> None:
        cache = make_prompt_cache(self._model) if row.cache is None else row.cache
        self._prompts.append(_Prompt(uid, row, cache, list(row.covered)))

    def remove(self, uid: int) -> None:
        self._prompts = [prompt for prompt in self._prompts if prompt.uid != uid]

    def extract(self, uid: int) -> tuple[KvCache, list[int]] | None:
        """As Generator.extract; None for a prompt that is not here, too."""
        for prompt in self._prompts:
            if prompt.uid == uid and prompt.tokens:
                return copy.deepcopy(prompt.cache), list(prompt.tokens)
        return None

    def run(self, budget: int, room: int) -> Prefilled:
        """Compute at most budget tokens. room: most rows that may become ready."""
        waiting = [prompt for prompt in self._prompts if not prompt.held][: max(room, 0)]
        at_last = [prompt for prompt in waiting if not prompt.remaining]
        with self._clock:
            moved, ready, caches = self._compute_slices([each for each in waiting if each.remaining], budget)
            single = [each for each in (*at_last, *moved) if each.joins and each not in ready]
            if single:
                ready += single
                caches.append(_merge([prompt.cache for prompt in single]))
        for prompt in (*at_last, *moved):
            prompt.held = not prompt.remaining
        self._prompts = [prompt for prompt in self._prompts if prompt not in ready]
        return Prefilled(
            [prompt.progress() for prompt in (*at_last, *moved)],
            [DecodeRow(each.uid, each.row, each.tokens, each.row.tokens[-1]) for each in ready],
            caches,
        )

    def _compute_slices(
        self, prompts: list[_Prompt], budget: int
    ) -> tuple[list[_Prompt], list[_Prompt], list[KvCache]]:
        """Returns the prompts that went on; those of them that did so together and are ready; batch caches
        of the latter.
        """
        shares = share_out([prompt.remaining for prompt in prompts], budget)
        slices = [
            Slice(place, tokens, len(prompt.tokens), tokens == prompt.remaining and not prompt.row.open)
            for place, tokens in shares.items()
            for prompt in [prompts[place]]
        ]
        moved: list[_Prompt] = []
        together: list[_Prompt] = []
        caches: list[KvCache] = []
        for group in passes(slices, self._max_pass_rows, padded=self._padded):
            members = [prompts[each.prompt] for each in group]
            parts = [prompt.advance(each.tokens) for prompt, each in zip(members, group, strict=True)]
            if len(members) > 1:
                caches.append(self._compute_together([prompt.cache for prompt in members], parts))
                together += members
            else:
                self._compute(members[0].cache, mx.array(parts))
            moved += members
        return moved, together, caches

    def _compute_together(self, caches: list[KvCache], parts: list[list[int]]) -> KvCache:
        """The next tokens of several prompts, padded on the right. Returns their batch caches."""
        lengths = [len(part) for part in parts]
        longest = max(lengths)
        padding = [longest - length for length in lengths]
        cache = _merge(caches)
        if not any(padding):
            self._compute(cache, mx.array(parts))
            return cache
        for layer in cache:
            layer.prepare(lengths=lengths, right_padding=padding)
        self._compute(cache, mx.array([part + [0] * more for part, more in zip(parts, padding, strict=True)]))
        for layer in cache:
            layer.finalize()
        mx.eval([layer.state for layer in cache])
        return cache

    def _compute(self, cache: KvCache, tokens: mx.array) -> None:
        # Of the logits nothing is evaluated, so they cost nothing.
        self._model(tokens, cache=cache)
        mx.eval([layer.state for layer in cache])
        self._since_clear += tokens.size
        if self._since_clear >= _CLEAR_CACHE_TOKENS:
            self._since_clear = 0
            mx.clear_cache()


def _merge(caches: list[KvCache]) -> KvCache:
    """Batch caches of several rows. Raises ValueError for a kind of cache that mlx-lm cannot batch."""
    kind = next((type(layer).__name__ for layer in caches[0] if not hasattr(layer, "merge")), None)
    if kind is not None:
        raise ValueError(f"{kind} cannot be batched")
    return [layer.merge([cache[index] for cache in caches]) for index, layer in enumerate(caches[0])]
