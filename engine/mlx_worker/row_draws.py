"""The draws of one row, at several positions at a time."""

import mlx.core as mx
from mlx_lm.generate import greedy_sampler

from engine.mlx_worker.generator import RowInput
from engine.mlx_worker.sampling import make_processors, make_sampler


class RowDraws:
    """Draws the tokens of one row. The only place where a single row meets samplers and processors.

    A draw depends on the logits, the tokens before it and its position; not on what was drawn before it was
    asked for.
    """

    def __init__(self, row: RowInput) -> None:
        self._sampling = row.sampling
        self._prompt_tokens = row.prompt_tokens
        self._processors = make_processors(
            row.sampling,
            prompt_tokens=row.prompt_tokens,
            min_tokens=row.min_tokens,
            ending_ids=row.ending_ids,
        )

    def draw(
        self, logits: mx.array, tokens: list[int], proposals: list[mx.array]
    ) -> tuple[mx.array, mx.array]:
        """Token ids [n] and log-probabilities [n, vocabulary] for logits [n, vocabulary]; not evaluated.

        The last of them follow `tokens` and all `proposals` (arrays of one id each), the ones before follow
        one proposal less each.
        """
        count = logits.shape[0]
        first = len(tokens) + len(proposals) - (count - 1)
        if self._processors:
            known = mx.array(tokens, dtype=mx.int32)
            context = mx.concatenate([known, *(each.astype(mx.int32) for each in proposals)])
            logits = mx.concatenate(
                [self._processed(logits[i : i + 1], context[: first + i]) for i in range(count)]
            )
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sampler = make_sampler(self._sampling, first - self._prompt_tokens)
        if sampler is greedy_sampler or count == 1:
            return sampler(logprobs), logprobs
        return mx.concatenate([sampler(logprobs[i : i + 1]) for i in range(count)]), logprobs

    def _processed(self, logits: mx.array, context: mx.array) -> mx.array:
        for process in self._processors:
            logits = process(context, logits)
        return logits
