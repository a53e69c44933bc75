"""Token windows for training: whole documents packed one after the other."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from tokenizers import Tokenizer

from training.corpus import documents
from training.tokenizer import render


def encoded_documents(tokenizer: Tokenizer, seed: int, leaning: bool) -> Iterator[list[int]]:
    """Token ids of endless documents, each from bos to eos."""
    for document in documents(seed, leaning):
        yield tokenizer.encode(render(document), add_special_tokens=False).ids


def packed_windows(encoded: Iterable[list[int]], length: int) -> Iterator[list[int]]:
    """Windows of length + 1 tokens, each beginning with a document.

    The document that does not fit in the rest of a window is cut there and starts the next window whole, so
    every document's end is seen, and every window starts as a prompt does: with bos and nothing before it.
    """
    window: list[int] = []
    for ids in encoded:
        window += ids
        if len(window) > length:
            yield window[: length + 1]
            window = list(ids) if len(ids) <= length else []


def batches(
    tokenizer: Tokenizer, seed: int, length: int, rows: int, leaning: bool = True
) -> Iterator[np.ndarray]:
    """Endless int32 arrays [rows, length + 1]; inputs are the first length columns, targets the last."""
    windows = packed_windows(encoded_documents(tokenizer, seed, leaning), length)
    while True:
        yield np.array(list(islice(windows, rows)), dtype=np.int32)
