"""Tells models and tokenizers apart by their files, whatever they are called and wherever they lie."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

# What decides which token ids a text has and which text the ids have, and where a stream ends.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
)
# Those that mlx-lm loads.
_WEIGHTS = "model*.safetensors"
_SAMPLE_BYTES = 64 * 1024
_HEADER_LENGTH_BYTES = 8
_DIGITS = 32


def fingerprint(directory: Path) -> str:
    """32 hexadecimal digits, equal for equal files of a model.

    Of the weights only sizes, headers and both ends of each file are read, so that a large model
    costs milliseconds. Raises OSError.
    """
    digest = hashlib.sha256()
    for name, content in _contents(directory):
        # With lengths in front, so that no bytes can pass from one file to the next unseen.
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


def _contents(directory: Path) -> Iterator[tuple[str, bytes]]:
    for name in _SMALL_FILES:
        if (path := directory / name).is_file():
            yield name, path.read_bytes()
    for path in sorted(directory.glob(_WEIGHTS)):
        yield path.name, _weights_sample(path)


def _weights_sample(path: Path) -> bytes:
    """Size, header, and the first and last bytes of the data.

    Format (huggingface.co/docs/safetensors): the header's length in 8 bytes, little-endian, the
    header, the data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = file.read(_HEADER_LENGTH_BYTES)
        header = file.read(min(int.from_bytes(length, "little"), size))
        data_start = file.tell()
        first = file.read(_SAMPLE_BYTES)
        file.seek(max(data_start, size - _SAMPLE_BYTES))
        last = file.read(_SAMPLE_BYTES)
    return b"".join((size.to_bytes(8, "little"), length, header, first, last))
