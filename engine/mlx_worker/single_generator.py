"""One row at a time: with a draft model, a quantised or a bounded KV cache, which mlx-lm cannot batch.

Speculative decoding as in Leviathan, Kalman, Matias (2023), with draws in place of their rejection rule: the
model's own draw at each position is made with the key of (seed, position), and a proposal is accepted if it
is that draw. So the output is the one that the model gives without a draft. The draft draws with the same
keys, which makes equal draws likely where the two distributions are alike.
"""

import itertools
import time
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import trim_prompt_cache
from mlx_lm.utils import maybe_set_recommended_wired_limit

from engine.mlx_worker.generator import KvCache, PromptProgress, RowInput, Step, StepToken
from engine.mlx_worker.kv_cache import PLAIN, KvForm, copy_of
from engine.mlx_worker.row_draws import RowDraws

# As often as mlx-lm's own generator gives unused buffers back.
_STEPS_PER_CLEARING = 256


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that proposes `tokens` tokens at a time, with the vocabulary of the main one."""

    model: nn.Module
    tokens: int


@dataclass(slots=True, eq=False)
class _Row:
    """tokens: all known ones. covered, draft_covered: how many of them are in the two caches.

    A row that is decoded is covered but for its last token; the draft may be one behind. told: that its
    prompt is done was said.
    """

    input: RowInput
    draws: RowDraws
    tokens: list[int]
    cache: KvCache
    draft_cache: KvCache
    covered: int
    draft_covered: int
    told: bool = False
    drawn: bool = False


class SingleGenerator:
    """Implements Generator. The oldest row is taken through the model, the others wait in their order.

    The KV that goes in and out is the model's layers followed by the draft's.
    """

    def __init__(self, model: nn.Module, *, draft: Draft | None, kv: KvForm) -> None:
        self._model = model
        self._draft = draft
        self._kv = kv
        self._layers = len(kv.make(model))
        self._uids = itertools.count()
        self._rows: dict[int, _Row] = {}
        self._steps = 0
        self._old_wired_limit = maybe_set_recommended_wired_limit()

    def insert(self, row: RowInput) -> int:
        cache = row.cache
        if cache is None:
            cache = self._kv.make(self._model)
            cache += PLAIN.make(self._draft.model) if self._draft is not None else []
        covered = len(row.covered)
        uid = next(self._uids)
        self._rows[uid] = _Row(
            input=row,
            draws=RowDraws(row),
            tokens=row.covered + row.tokens,
            cache=cache[: self._layers],
            draft_cache=cache[self._layers :],
            covered=covered,
            draft_covered=covered,
        )
        return uid

    def remove(self, uid: int) -> None:
        self._rows.pop(uid, None)

    def extract(self, uid: int) -> tuple[KvCache, list[int]] | None:
        row = self._rows.get(uid)
        if row is None or not row.covered:
            return None
        if self._draft is not None and row.draft_covered < row.covered:
            self._run(self._draft.model, row.tokens[row.draft_covered : row.covered], row.draft_cache)
            row.draft_covered = row.covered
        return copy_of(row.cache + row.draft_cache), row.tokens[: row.covered]

    def next(self, prefill_tokens: int) -> Step:
        if not self._rows:
            return Step([], [], 0.0)
        uid, row = next(iter(self._rows.items()))
        began_s = time.perf_counter()
        if row.told or row.drawn:
            tokens = self._decode(uid, row)
            return Step([], tokens, time.perf_counter() - began_s)
        self._prefill(row, prefill_tokens)
        total = len(row.input.tokens)
        row.told = row.covered == len(row.tokens) - 1
        # Of a row that begins with its last token nothing else is told.
        done = row.covered - len(row.input.covered) if total > 1 else 1
        progress = PromptProgress(uid, done, total, at_last=row.told)
        took_s = time.perf_counter() - began_s
        return Step([progress], [], took_s, took_s)

    def _prefill(self, row: _Row, most_tokens: int) -> None:
        """Compute a slice of all but the last token."""
        part = row.tokens[row.covered : min(row.covered + most_tokens, len(row.tokens) - 1)]
        if not part:
            return
        self._run(self._model, part, row.cache)
        self._kv.quantise(row.cache)
        if self._draft is not None:
            self._run(self._draft.model, part, row.draft_cache)
        mx.eval([layer.state for layer in row.cache + row.draft_cache])
        row.covered += len(part)
        row.draft_covered = row.covered
        mx.clear_cache()

    def _decode(self, uid: int, row: _Row) -> list[StepToken]:
        """The next token, and those after it that the draft foresaw."""
        # The first token is not to wait for the draft.
        proposed = self._propose(row, self._draft) if self._draft is not None and row.drawn else []
        known = row.tokens + proposed
        given = mx.array(known[len(row.tokens) - 1 :], dtype=mx.uint32)
        logits = self._model(given[None], cache=row.cache)[0]
        self._kv.quantise(row.cache)
        drawn, logprobs = row.draws.draw(logits, known)
        ids = self._accept(row, drawn, proposed)
        self._steps += 1
        if self._steps % _STEPS_PER_CLEARING == 0:
            mx.clear_cache()
        return [StepToken(uid, token, logprobs.get(place)) for place, token in enumerate(ids)]

    def _propose(self, row: _Row, draft: Draft) -> list[int]:
        proposed: list[int] = []
        given = row.tokens[row.draft_covered :]
        for _ in range(draft.tokens):
            logits = draft.model(mx.array(given, dtype=mx.uint32)[None], cache=row.draft_cache)[0, -1:]
            given, _ = row.draws.draw(logits, row.tokens + proposed)
            proposed += given
        return proposed

    def _accept(self, row: _Row, ids: list[int], proposed: list[int]) -> list[int]:
        """Take the draws up to the first that was not proposed, and take the caches back to them."""
        accepted = 0
        while accepted < len(proposed) and ids[accepted] == proposed[accepted]:
            accepted += 1
        before = len(row.tokens)
        row.tokens += ids[: accepted + 1]
        row.covered = before + accepted
        if proposed:
            # The draft has not run its last proposal.
            ran = before + len(proposed) - 1
            row.draft_covered = min(ran, row.covered)
            _take_back(row.cache, len(proposed) - accepted)
            _take_back(row.draft_cache, ran - row.draft_covered)
        row.drawn = True
        return ids[: accepted + 1]

    @staticmethod
    def _run(model: nn.Module, tokens: list[int], cache: KvCache) -> None:
        model(mx.array(tokens, dtype=mx.uint32)[None], cache=cache)

    @property
    def kv_bytes(self) -> int:
        return sum(int(layer.nbytes) for row in self._rows.values() for layer in row.cache + row.draft_cache)

    def close(self) -> None:
        self._rows.clear()
        if self._old_wired_limit is not None:
            mx.synchronize()
            mx.set_wired_limit(self._old_wired_limit)
            self._old_wired_limit = None


def _take_back(cache: KvCache, tokens: int) -> None:
    if tokens:
        trim_prompt_cache(cache, tokens)
