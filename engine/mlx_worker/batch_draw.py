"""From a step's logits to its tokens, for all rows of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.mlx_worker.batch_sampling import BatchSampler
from engine.mlx_worker.generator import RowInput
from engine.mlx_worker.logprobs import BatchLogprobs, LogprobArrays
from engine.mlx_worker.penalties import BatchPenalties, PenalisedRow, changes_logits

Array = Any


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of a step [rows], and the log-probabilities of those rows that asked."""

    tokens: Array
    logprobs: LogprobArrays | None

    @property
    def arrays(self) -> list[Array]:
        found = self.logprobs
        return [self.tokens] if found is None else [self.tokens, found.own, found.ids, found.values]


class BatchDraw:
    """Draws for the rows that it was made for, one token of each with every call."""

    def __init__(self, rows: Sequence[tuple[RowInput, list[int]]], xp: Any, *, later: int = 0) -> None:
        """rows: each with all its tokens before the one that its next logits are computed from.

        later: how many tokens more are at the end of each list.
        """
        self._sampler = BatchSampler([row.sampling for row, _ in rows], xp)
        # Made anew whenever a row leaves or joins, and for most batches there is nothing to be collected.
        penalised = (
            [_penalised(row, tokens, len(tokens) - later) for row, tokens in rows]
            if any(changes_logits(row) for row, _ in rows)
            else []
        )
        self._penalties = BatchPenalties(penalised, xp)
        self._logprobs = BatchLogprobs([row.logprobs for row, _ in rows], xp)
        self._positions = np.array(
            [max(0, len(tokens) - later + 1 - row.prompt_tokens) for row, tokens in rows], dtype=np.int64
        )

    def draw(self, logits: Array, inputs: Array) -> Drawn:
        """logits: [rows, vocabulary], float32, may be overwritten. inputs: [rows], what they came from."""
        if not self._penalties.empty:
            logits = self._penalties.apply(logits, inputs, self._positions)
        tokens = self._sampler.sample(logits, self._positions)
        self._positions += 1
        return Drawn(tokens, self._logprobs.compute(logits, tokens))

    @property
    def logprobs(self) -> BatchLogprobs:
        return self._logprobs


def _penalised(row: RowInput, tokens: list[int], known: int) -> PenalisedRow:
    """known: how many of the tokens count."""
    context = tokens[max(0, known - row.sampling.penalty_context_tokens) : known]
    return PenalisedRow(row.sampling, context, row.min_tokens, row.ending_ids)
