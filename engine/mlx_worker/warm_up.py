"""First steps of a freshly loaded model, so that no caller waits for memory and compilation."""

import time
from collections import Counter
from collections.abc import Callable

from engine.mlx_worker.batch import MakeGenerator
from engine.mlx_worker.generator import Generator, RowInput
from engine.requests import Sampling

_PROMPT_TOKENS = 16
_OUTPUT_TOKENS = 4
_ROWS = 2
_SHORT_PROMPT_TOKENS = 2
_PREFILL_TOKENS = 512
_GREEDY = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    penalty_context_tokens=1,
    logit_bias={},
    seed=0,
    xtc_probability=0.0,
    xtc_threshold=0.1,
)


def warm_up(
    make_generator: MakeGenerator,
    vocab_size: int,
    *,
    max_batch_rows: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Generate a few tokens and throw them away. Call it in the model thread.

    Returns the seconds of one decode step with the batch full.
    """
    _generate(make_generator(), _ROWS, _PROMPT_TOKENS, vocab_size, clock)
    return _generate(make_generator(), max_batch_rows, _SHORT_PROMPT_TOKENS, vocab_size, clock)


def _generate(
    generator: Generator, rows: int, prompt_tokens: int, vocab_size: int, clock: Callable[[], float]
) -> float:
    """Seconds of a call that gave tokens to as many rows as any did, the shortest of them."""
    try:
        prompt = [token % vocab_size for token in range(prompt_tokens)]
        unfinished = {generator.insert(_greedy(prompt)): _OUTPUT_TOKENS for _ in range(rows)}
        most, step_s = 0, 0.0
        while unfinished:
            began_s = clock()
            tokens = generator.next(_PREFILL_TOKENS).tokens
            took_s = clock() - began_s
            given = Counter(token.uid for token in tokens)
            if len(given) > most or (given and len(given) == most and took_s < step_s):
                most, step_s = len(given), took_s
            for uid, count in given.items():
                unfinished[uid] -= count
                if unfinished[uid] <= 0:
                    del unfinished[uid]
                    generator.remove(uid)
        return step_s
    finally:
        generator.close()


def _greedy(prompt: list[int]) -> RowInput:
    return RowInput(
        tokens=prompt,
        cache=None,
        covered=[],
        prompt_tokens=len(prompt),
        sampling=_GREEDY,
        min_tokens=0,
        ending_ids=(),
        logprobs=None,
        open=False,
    )
