"""Takes rows through a model: prompts by budget, then decoding in one batch, with mlx-lm's caches."""

import time

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import maybe_set_recommended_wired_limit

from engine.mlx_worker.decode_rows import DecodeRows
from engine.mlx_worker.generator import KvCache, RowInput, Step
from engine.mlx_worker.model_clock import ModelClock
from engine.mlx_worker.prefill_rows import PrefillRows


class RowGenerator:
    """Implements Generator."""

    def __init__(self, model: nn.Module, *, max_rows: int, prefill_rows: int) -> None:
        """max_rows: most rows that are decoded at once. prefill_rows: most prompts in one pass."""
        self._clock = ModelClock()
        self._prefill = PrefillRows(model, max_pass_rows=prefill_rows, clock=self._clock)
        self._decode = DecodeRows(model, self._clock)
        self._max_rows = max_rows
        self._next_uid = 0
        self._old_wired_limit = maybe_set_recommended_wired_limit()

    def insert(self, row: RowInput) -> int:
        if not row.tokens:
            raise ValueError("a row needs at least one token to be computed")
        uid = self._next_uid
        self._prefill.insert(uid, row)
        self._next_uid += 1
        return uid

    def remove(self, uid: int) -> None:
        if not self._decode.remove(uid):
            self._prefill.remove(uid)

    def extract(self, uid: int) -> tuple[KvCache, list[int]] | None:
        found = self._decode.extract(uid) or self._prefill.extract(uid)
        if found is not None:
            # An unevaluated slice would keep the arrays of the whole batch in memory.
            mx.eval([layer.state for layer in found[0]])
        return found

    def next(self, prefill_tokens: int) -> Step:
        """With prompts to compute, a decode step is not overlapped with the delivery of its tokens.

        For tokens would wait for a slice of prompts that was computed after them, first ones too.
        """
        room = self._max_rows - len(self._decode)
        if not (room > 0 and self._prefill.has_work):
            return Step([], self._decode.advance(), self._clock.take_s())
        if self._decode.under_way and (tokens := self._decode.finish()):
            return Step([], tokens, self._clock.take_s())
        began_s = time.perf_counter()
        prefilled = self._prefill.run(prefill_tokens, room)
        prefill_s = time.perf_counter() - began_s
        if prefilled.rows:
            self._decode.join(prefilled.rows, prefilled.caches)
        tokens = self._decode.advance()
        if not tokens:
            tokens = self._decode.finish()
        return Step(prefilled.progress, tokens, self._clock.take_s(), prefill_s)

    @property
    def kv_bytes(self) -> int:
        return self._prefill.kv_bytes + self._decode.kv_bytes

    def close(self) -> None:
        if self._old_wired_limit is not None:
            mx.synchronize()
            mx.set_wired_limit(self._old_wired_limit)
            self._old_wired_limit = None
