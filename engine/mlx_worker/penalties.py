"""What changes the logits of a batch before sampling: penalties, then bias, then endings that are forbidden.

Meaning and order are those of mlx-lm's logits processors. Works on arrays of NumPy or MLX (`xp`), as
batch_sampling does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.mlx_worker.draw_keys import Ints
from engine.mlx_worker.generator import RowInput
from engine.requests import Sampling

Array = Any


@dataclass(frozen=True, slots=True)
class PenalisedRow:
    """What the logits of a row depend on.

    context: its latest tokens before the one that is computed now, at least penalty_context_tokens of them
    where there are as many. ending_ids: forbidden before min_tokens output tokens.
    """

    sampling: Sampling
    context: Sequence[int]
    min_tokens: int
    ending_ids: Sequence[int]


def is_penalised(sampling: Sampling) -> bool:
    """Whether the recent tokens of a row count."""
    return (
        sampling.repetition_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    )


def changes_logits(row: RowInput | PenalisedRow) -> bool:
    """Whether anything here is of use to a row."""
    return is_penalised(row.sampling) or _has_fixed(row)


class BatchPenalties:
    """Changes the logits of the rows that it was made for. To be applied once for each step of theirs."""

    def __init__(self, rows: Sequence[PenalisedRow], xp: Any) -> None:
        self._recent = _RecentTokens(rows, xp) if any(is_penalised(row.sampling) for row in rows) else None
        self._fixed = _FixedChanges(rows, xp) if any(map(_has_fixed, rows)) else None

    @property
    def empty(self) -> bool:
        """Whether it changes nothing, ever."""
        return self._recent is None and self._fixed is None

    def apply(self, logits: Array, tokens: Array, positions: Ints) -> Array:
        """logits: [rows, vocabulary], may be changed in place. tokens: [rows], what they were computed from.

        positions: output tokens so far, by row.
        """
        if self._recent is not None:
            logits = self._recent.apply(logits, tokens)
        return logits if self._fixed is None else self._fixed.apply(logits, positions)


class _RecentTokens:
    """The three penalties, over a ring of each row's latest tokens."""

    def __init__(self, rows: Sequence[PenalisedRow], xp: Any) -> None:
        self._xp = xp
        chosen = [index for index, row in enumerate(rows) if is_penalised(rows[index].sampling)]
        options = [rows[index].sampling for index in chosen]
        self._sizes = np.array([option.penalty_context_tokens for option in options])
        ring = np.zeros((len(chosen), int(self._sizes.max())), dtype=np.int32)
        self._seen = np.zeros(len(chosen), dtype=np.int64)
        for place, index in enumerate(chosen):
            recent = list(rows[index].context[-options[place].penalty_context_tokens :])
            ring[place, : len(recent)] = recent
            self._seen[place] = len(recent)
        self._ring = xp.array(ring)
        self._rows = xp.array(np.array(chosen))
        self._repetition = self._column([option.repetition_penalty for option in options])
        self._presence = self._column([option.presence_penalty for option in options])
        self._frequency = self._column([option.frequency_penalty for option in options])
        self._counts = any(option.frequency_penalty != 0 for option in options)

    def _column(self, values: Sequence[float]) -> Array:
        return self._xp.array(np.array(values, dtype=np.float32))[:, None]

    def apply(self, logits: Array, tokens: Array) -> Array:
        xp = self._xp
        newest = tokens[self._rows].astype(xp.int32)[:, None]
        slots = xp.array(self._seen % self._sizes)
        self._ring[xp.arange(len(slots)), slots] = newest[:, 0]
        self._seen += 1
        filled = xp.array(np.minimum(self._seen, self._sizes))[:, None]
        valid = xp.arange(self._ring.shape[1])[None] < filled
        # Slots without a token repeat one that is there: writing the same value twice does no harm.
        ids = xp.where(valid, self._ring, newest)
        rows = self._rows[:, None]
        selected = logits[rows, ids]
        scaled = xp.where(selected < 0, selected * self._repetition, selected / self._repetition)
        logits[rows, ids] = scaled - self._presence
        if not self._counts:
            return logits
        return _add(xp, logits, rows, ids, xp.where(valid, -self._frequency, 0))


class _FixedChanges:
    """Logit bias, and ending ids while a row is too short to end."""

    def __init__(self, rows: Sequence[PenalisedRow], xp: Any) -> None:
        self._xp = xp
        self._places = rows
        self._min_tokens = np.array([row.min_tokens if _may_forbid(row) else 0 for row in rows])
        self._forbidden = np.zeros(len(rows), dtype=np.bool_)
        self._parts: tuple[Array, Array, Array] | None = None

    def apply(self, logits: Array, positions: Ints) -> Array:
        forbidden = positions < self._min_tokens
        if self._parts is None or (forbidden != self._forbidden).any():
            self._forbidden = forbidden
            self._parts = self._collect()
        rows, ids, values = self._parts
        return _add(self._xp, logits, rows, ids, values) if len(rows) else logits

    def _collect(self) -> tuple[Array, Array, Array]:
        rows: list[int] = []
        ids: list[int] = []
        values: list[float] = []
        for index, row in enumerate(self._places):
            endings = list(row.ending_ids) if self._forbidden[index] else []
            rows += [index] * (len(row.sampling.logit_bias) + len(endings))
            ids += [*row.sampling.logit_bias, *endings]
            values += [*row.sampling.logit_bias.values(), *[-np.inf] * len(endings)]
        xp = self._xp
        return (
            xp.array(np.array(rows, dtype=np.int32)),
            xp.array(np.array(ids, dtype=np.int32)),
            xp.array(np.array(values, dtype=np.float32)),
        )


def _has_fixed(row: RowInput | PenalisedRow) -> bool:
    return bool(row.sampling.logit_bias) or _may_forbid(row)


def _may_forbid(row: RowInput | PenalisedRow) -> bool:
    return row.min_tokens > 0 and len(row.ending_ids) > 0


def _add(xp: Any, logits: Array, rows: Array, ids: Array, values: Array) -> Array:
    """Add values at (rows, ids); those of equal places add up."""
    if xp is np:
        np.add.at(logits, (rows, ids), values)
        return logits
    return logits.at[rows, ids].add(values)
