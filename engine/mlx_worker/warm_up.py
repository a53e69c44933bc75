"""First steps of a freshly loaded model, so that no caller waits for memory and compilation."""

from engine.mlx_worker.batch import MakeGenerator

_PROMPT_TOKENS = 16
_OUTPUT_TOKENS = 4
_ROWS = 2


def warm_up(make_generator: MakeGenerator, vocab_size: int) -> None:
    """Generate a few tokens in two rows and throw them away. Call it in the model thread."""
    generator = make_generator()
    try:
        prompt = [token % vocab_size for token in range(_PROMPT_TOKENS)]
        generator.insert([list(prompt) for _ in range(_ROWS)], max_tokens=[_OUTPUT_TOKENS] * _ROWS)
        unfinished = _ROWS
        while unfinished:
            _, tokens = generator.next()
            unfinished -= sum(token.finish_reason is not None for token in tokens)
    finally:
        generator.close()
