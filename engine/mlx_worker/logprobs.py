"""Log-probabilities of one position, for rows that asked."""

import mlx.core as mx
import numpy as np

from engine.events import TokenLogprobs


def token_logprobs(logprobs: mx.array, token_id: int, alternatives: int) -> TokenLogprobs:
    """logprobs: [vocabulary], evaluated. alternatives: how many most likely tokens to name."""
    values = np.array(logprobs.astype(mx.float32))
    if not alternatives:
        return TokenLogprobs(float(values[token_id]), ())
    alternatives = min(alternatives, values.size)
    best = np.argpartition(values, -alternatives)[-alternatives:]
    best = best[np.argsort(-values[best], kind="stable")]
    return TokenLogprobs(float(values[token_id]), tuple((int(i), float(values[i])) for i in best))
