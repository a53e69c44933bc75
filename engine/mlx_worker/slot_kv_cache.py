"""The KV cache of a batch whose rows come and go, without a copy of all of it each time.

mlx-lm's BatchKVCache makes new arrays of all rows whenever some join or leave. Here rows that join are
written into room that is kept for them, and the last rows take the places of those that leave.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

from engine.mlx_worker.generator import KvCache

# Arrays that are made anew have room for this part of their rows more.
_SPARE_ROWS_PART = 4
# Tokens of an array are a multiple of the first number, with so many to spare at least.
_TOKENS_STEP, _SPARE_TOKENS = 256, 64
# Padding that all rows have is cut off when it is so many tokens, and this part of all.
_CUT_TOKENS, _CUT_PART = 64, 4


def with_slots(cache: KvCache) -> KvCache:
    """The batch caches of all layers, in slots where their kind allows it. Takes them over."""
    return [SlotKVCache(layer) if type(layer) is BatchKVCache else layer for layer in cache]


def keep_rows(cache: KvCache, places: Sequence[int]) -> None:
    """Let only the rows at these places stay, in this order.

    When rows change places it waits for the pass that is under way.
    """
    moves = [(to, place) for to, place in enumerate(places) if to != place]
    slots = [layer for layer in cache if isinstance(layer, SlotKVCache)]
    copies = [layer.copies([place for _, place in moves]) for layer in slots]
    # MLX writes into an array, and not into a copy of it, only while nothing else is to be made of it.
    mx.eval(copies)
    for layer, rows in zip(slots, copies, strict=True):
        layer.put([to for to, _ in moves], rows)
        layer.keep(places)
    for layer in cache:
        if not isinstance(layer, SlotKVCache):
            layer.filter(list(places))


class SlotKVCache(BatchKVCache):  # type: ignore[misc]
    """Implements what decoding needs of a BatchKVCache.

    keys, values: [rows and room for more, heads, tokens and room for more, dimension]. The tokens of every
    row end at _idx and have padding before them.
    """

    offset: mx.array

    def __init__(self, rows: BatchKVCache) -> None:
        """rows: not to be used again."""
        self._padding: list[int] = rows.left_padding.tolist()
        super().__init__(self._padding)
        self.keys, self.values, self._idx = rows.keys, rows.values, rows._idx
        self._tell_padding()

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.keys is None:
            self.keys, self.values = keys[:, :, :0], values[:, :, :0]
        rows, _, tokens, _ = keys.shape
        if self._idx + tokens > self.keys.shape[2]:
            self._make_room(rows, tokens=tokens)
        begin, self._idx = self._idx, self._idx + tokens
        self.keys[:rows, :, begin : self._idx] = keys
        self.values[:rows, :, begin : self._idx] = values
        self.offset = self.offset + tokens
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        rows = len(self._padding)
        return self.keys[:rows, :, : self._idx], self.values[:rows, :, : self._idx]

    def extend(self, other: BatchKVCache) -> None:
        """Take the rows of another up, behind these."""
        joining: list[int] = other.left_padding.tolist()
        before, rows = len(self._padding), len(self._padding) + len(joining)
        if self.keys is None and other.keys is not None:
            self.keys, self.values = (each[:1, :, :0] for each in (other.keys, other.values))
        if self.keys is not None:
            if rows > self.keys.shape[0] or other._idx > self._idx:
                self._make_room(rows, end=other._idx)
            begin = self._idx - other._idx
            # Padding counts for nothing unless it is not a number, which some earlier row may have left here.
            self.keys[before:rows, :, :begin] = 0
            self.values[before:rows, :, :begin] = 0
            if other.keys is not None:
                held = slice(0, len(joining)), slice(None), slice(0, other._idx)
                self.keys[before:rows, :, begin : self._idx] = other.keys[held]
                self.values[before:rows, :, begin : self._idx] = other.values[held]
            joining = [padding + begin for padding in joining]
        self._padding += joining
        self._tell_padding()

    def copies(self, places: Sequence[int]) -> Any:
        """The rows at these places, not evaluated."""
        if self.keys is None or not places:
            return ()
        rows = mx.array(list(places))
        return self.keys[rows], self.values[rows]

    def put(self, places: Sequence[int], rows: Any) -> None:
        """Write rows, as `copies` gave them, over those at these places."""
        if rows:
            for number, place in enumerate(places):
                self.keys[place : place + 1] = rows[0][number : number + 1]
                self.values[place : place + 1] = rows[1][number : number + 1]

    def keep(self, places: Sequence[int]) -> None:
        """Count the first rows only, which were at these places before."""
        self._padding = [self._padding[place] for place in places]
        common = min(self._padding)
        if self.keys is not None and (
            (common >= _CUT_TOKENS and common * _CUT_PART >= self._idx)
            or self.keys.shape[0] > 2 * len(places)
        ):
            self._make_room(len(places))
        self._tell_padding()

    def filter(self, places: Sequence[int]) -> None:
        """As keep_rows, of this layer."""
        keep_rows([self], places)

    def extract(self, place: int) -> KVCache:
        cache, held = KVCache(), slice(self._padding[place], self._idx)
        cache.keys = mx.contiguous(self.keys[place : place + 1, :, held])
        cache.values = mx.contiguous(self.values[place : place + 1, :, held])
        cache.offset = cache.keys.shape[2]
        return cache

    def _make_room(self, rows: int, *, end: int = 0, tokens: int = 0) -> None:
        """New arrays for so many rows, which end at `end` or later, and for so many tokens after that.

        Padding that all rows have is cut off.
        """
        common = min(self._padding)
        held = self._idx - common
        end = max(held, end)
        room = -(-(end + max(tokens, _SPARE_TOKENS)) // _TOKENS_STEP) * _TOKENS_STEP
        if rows <= self.keys.shape[0] <= 2 * rows:
            rows = self.keys.shape[0]
        else:
            rows += rows // _SPARE_ROWS_PART
        here = slice(0, len(self._padding)), slice(None)
        made = []
        for array in (self.keys, self.values):
            new = mx.zeros((rows, array.shape[1], room, array.shape[3]), array.dtype)
            if held:
                new[*here, end - held : end] = array[*here, common : self._idx]
            made.append(new)
        self.keys, self.values = made
        self._padding = [padding - common + end - held for padding in self._padding]
        self._idx = end
        self._tell_padding()

    def _tell_padding(self) -> None:
        self.left_padding = mx.array(self._padding)
        self.offset = mx.array([self._idx - padding for padding in self._padding])
