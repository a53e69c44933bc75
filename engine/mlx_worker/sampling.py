"""Samplers and logits processors of one row.

The filters and penalties are mlx-lm's. The draw is ours: it takes its key from (seed, position), so
that a stream's samples do not depend on the rows beside it, nor on where it was interrupted.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx_lm.generate import greedy_sampler
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    make_frequency_penalty,
    make_logits_processors,
    make_presence_penalty,
    make_repetition_penalty,
)

from engine.requests import Sampling

Sampler = Callable[[mx.array], mx.array]
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]

_MASK_64 = (1 << 64) - 1
_DRAW, _XTC = 0, 1


def _key(seed: int, position: int, purpose: int) -> mx.array:
    """PRNG key for one draw. SplitMix64 (Steele, Lea, Flood 2014) spreads neighbouring positions."""
    z = (seed + (2 * position + purpose + 1) * 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    key: mx.array = mx.random.key(z ^ (z >> 31))
    return key


def _apply_xtc(logprobs: mx.array, threshold: float) -> mx.array:
    """Leave out all but the least likely of the tokens whose probability is above threshold."""
    probs = mx.softmax(logprobs, axis=-1)
    least = mx.where(probs > threshold, probs, mx.inf).min(axis=-1, keepdims=True)
    return mx.where(probs > least, -mx.inf, logprobs)


def make_sampler(sampling: Sampling, position: int) -> Sampler:
    """A sampler from log-probabilities [1, vocabulary] to token ids [1].

    position: number of output tokens before its first call; it counts on from there by itself.
    Temperature 0 gives mlx-lm's one greedy sampler, which rows that share it run in a single call.
    """
    if sampling.temperature == 0:
        return greedy_sampler  # type: ignore[no-any-return]
    at = position

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal at
        if 0 < sampling.top_p < 1:
            logprobs = apply_top_p(logprobs, sampling.top_p)
        if sampling.min_p > 0:
            logprobs = apply_min_p(logprobs, sampling.min_p)
        if sampling.xtc_probability > 0:
            drawn = mx.random.uniform(key=_key(sampling.seed, at, _XTC)) < sampling.xtc_probability
            logprobs = mx.where(drawn, _apply_xtc(logprobs, sampling.xtc_threshold), logprobs)
        if sampling.top_k > 0:
            logprobs = apply_top_k(logprobs, sampling.top_k)
        key = _key(sampling.seed, at, _DRAW)
        at += 1
        return mx.random.categorical(logprobs * (1 / sampling.temperature), key=key)

    return sample


def make_processors(
    sampling: Sampling, *, prompt_tokens: int, min_tokens: int, ending_ids: Sequence[int]
) -> list[LogitsProcessor]:
    """What changes the logits of one row before sampling; empty for most rows.

    ending_ids: ids that may not be chosen before min_tokens output tokens.
    """
    context = sampling.penalty_context_tokens
    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        processors.append(make_repetition_penalty(sampling.repetition_penalty, context))
    if sampling.presence_penalty != 0:
        processors.append(make_presence_penalty(sampling.presence_penalty, context))
    if sampling.frequency_penalty != 0:
        processors.append(make_frequency_penalty(sampling.frequency_penalty, context))
    if sampling.logit_bias:
        processors.extend(make_logits_processors(logit_bias=sampling.logit_bias))
    if min_tokens > 0 and ending_ids:
        processors.append(_forbid_until(prompt_tokens + min_tokens, ending_ids))
    return processors


def _forbid_until(tokens: int, ids: Sequence[int]) -> LogitsProcessor:
    """Forbid ids while prompt and output together are shorter than `tokens`."""
    forbidden = mx.array(list(ids))

    def forbid(context: mx.array, logits: mx.array) -> mx.array:
        if context.size < tokens:
            logits[:, forbidden] = -mx.inf
        return logits

    return forbid
