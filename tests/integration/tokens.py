"""The embedded model's tokenizer, to make inputs and to check outputs. Nothing depends on the weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from penstock.v1.generation_pb2 import Finished
from tests.integration.processes import ROOT

_FOLDER: Path = ROOT / "engine" / "embedded"
TOKENIZER = Tokenizer.from_file(str(_FOLDER / "tokenizer.json"))
_CONFIG = json.loads((_FOLDER / "config.json").read_text())
VOCAB_SIZE: int = _CONFIG["vocab_size"]
CONTEXT_TOKENS = 1024
"""Less than the model's own, so that a prompt that fills it is computed soon."""
EOS_ID: int = _CONFIG["eos_token_id"]


def used(end: Finished) -> tuple[int, int]:
    """Tokens of prompt and output; how many of them were cached depends on what ran before."""
    return end.usage.prompt_tokens, end.usage.completion_tokens


def ids_of(text: str) -> list[int]:
    """Ids of a prompt, special tokens added."""
    return list(TOKENIZER.encode(text).ids)


def text_of(ids: Sequence[int], *, after: Sequence[int]) -> str:
    """The text of output ids behind a prompt's ids."""
    return str(TOKENIZER.decode([*after, *ids])).removeprefix(str(TOKENIZER.decode(list(after))))


def byte_ids(character: str) -> list[int]:
    """The character as tokens of one byte each, whatever the tokenizer would make of it."""
    ((mapped, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)
    vocabulary = TOKENIZER.get_vocab()
    return [vocabulary[byte] for byte in mapped]
