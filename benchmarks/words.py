"""The texts of the random model with words: one word for each token."""

import random

VOCABULARY = 4096
FIRST_WORD = 5
"""The token ids below are special."""
_LETTERS = "abcdefghijklmnop"


def word(token_id: int) -> str:
    """The text of a token."""
    return "".join(_LETTERS[token_id >> shift & 15] for shift in (8, 4, 0))


def words(count: int, seed: int | str) -> str:
    """A text of so many tokens, the same one each time for the same seed."""
    draw = random.Random(str(seed))  # Of numbers, Python drops the sign.
    return " ".join(word(draw.randrange(FIRST_WORD, VOCABULARY)) for _ in range(count))
