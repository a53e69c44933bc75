"""Log-probabilities of a step's tokens, for the rows that asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.events import TokenLogprobs

Array = Any


@dataclass(frozen=True, slots=True)
class LogprobArrays:
    """Of each row that asked: its token's own [rows], and the ids and values of the most likely [rows, n].

    The most likely are in no order; there are none where no row asked for any.
    """

    own: Array
    ids: Array
    values: Array


class BatchLogprobs:
    """Finds them for the rows that it was made for."""

    def __init__(self, wanted: Sequence[int | None], xp: Any) -> None:
        """wanted: by row, how many most likely tokens besides the row's own; None for nothing at all."""
        self._xp = xp
        self._rows = [index for index, count in enumerate(wanted) if count is not None]
        self._counts = [count for count in wanted if count is not None]
        self._all = len(self._rows) == len(wanted)
        self._index = xp.array(self._rows) if self._rows else None

    def compute(self, logits: Array, tokens: Array) -> LogprobArrays | None:
        """logits: [rows, vocabulary], float32, as they are sampled before the temperature. tokens: [rows]."""
        if self._index is None:
            return None
        xp = self._xp
        if not self._all:
            logits, tokens = logits[self._index], tokens[self._index]
        peak = xp.max(logits, axis=-1, keepdims=True)
        logprobs = logits - (peak + xp.log(xp.sum(xp.exp(logits - peak), axis=-1, keepdims=True)))
        own = xp.take_along_axis(logprobs, tokens[:, None], -1)[:, 0]
        most = min(max(self._counts), logits.shape[-1])
        if not most:
            return LogprobArrays(own, logprobs[:, :0], logprobs[:, :0])
        ids = xp.argpartition(logprobs, logits.shape[-1] - most, axis=-1)[:, -most:]
        return LogprobArrays(own, ids, xp.take_along_axis(logprobs, ids, -1))

    def by_row(self, found: LogprobArrays | None) -> dict[int, TokenLogprobs]:
        """By row, what compute gave, evaluated; best first."""
        if found is None:
            return {}
        own, ids, values = (np.array(part) for part in (found.own, found.ids, found.values))
        order = np.argsort(-values, axis=-1, kind="stable")
        ids = np.take_along_axis(ids, order, -1).tolist()
        values = np.take_along_axis(values, order, -1).tolist()
        best = zip(ids, values, strict=True)
        return {
            row: TokenLogprobs(float(mine), tuple(zip(some[:count], theirs[:count], strict=True)))
            for row, count, mine, (some, theirs) in zip(self._rows, self._counts, own, best, strict=True)
        }
