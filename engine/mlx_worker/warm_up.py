"""First steps of a freshly loaded model, so that no caller waits for memory and compilation."""

import time
from collections.abc import Callable

from mlx_lm.generate import BatchGenerator

from engine.mlx_worker.batch import MakeGenerator

_PROMPT_TOKENS = 16
_OUTPUT_TOKENS = 4
_ROWS = 2
_SHORT_PROMPT_TOKENS = 2


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
    generator: BatchGenerator, rows: int, prompt_tokens: int, vocab_size: int, clock: Callable[[], float]
) -> float:
    """Seconds of a call that gave a token to as many rows as any did, the shortest of them."""
    try:
        prompt = [token % vocab_size for token in range(prompt_tokens)]
        generator.insert([list(prompt) for _ in range(rows)], max_tokens=[_OUTPUT_TOKENS] * rows)
        unfinished, most, step_s = rows, 0, 0.0
        while unfinished:
            began_s = clock()
            _, tokens = generator.next()
            took_s = clock() - began_s
            if len(tokens) > most or (len(tokens) == most and took_s < step_s):
                most, step_s = len(tokens), took_s
            unfinished -= sum(token.finish_reason is not None for token in tokens)
        return step_s
    finally:
        generator.close()
