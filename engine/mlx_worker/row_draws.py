"""The draws of one row, at several positions at a time."""

import mlx.core as mx
import numpy as np

from engine.events import TokenLogprobs
from engine.mlx_worker.batch_draw import BatchDraw
from engine.mlx_worker.batch_sampling import array_module
from engine.mlx_worker.generator import RowInput


class RowDraws:
    """Draws the tokens of one row, as a batch does.

    A draw depends on the logits, the tokens before it and its position; not on what was drawn before it was
    asked for.
    """

    def __init__(self, row: RowInput) -> None:
        self._row = row
        self._xp = array_module()

    def draw(self, logits: mx.array, tokens: list[int]) -> tuple[list[int], dict[int, TokenLogprobs]]:
        """Token ids, and by place the log-probabilities of those that asked.

        logits: [n, vocabulary], computed from the last n of `tokens`, which are all tokens of the row so far.
        """
        count = logits.shape[0]
        first = len(tokens) - count
        draw = BatchDraw([(self._row, tokens[: first + place]) for place in range(count)], self._xp)
        logits = logits.astype(mx.float32)
        values = np.array(logits) if self._xp is np else logits
        drawn = draw.draw(values, self._xp.array(tokens[first:]))
        ids = [int(token) for token in np.array(drawn.tokens)]
        return ids, draw.logprobs.by_row(drawn.logprobs)
