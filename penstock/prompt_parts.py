"""Long text prompts in pieces: how large a piece is, and where the text is cut."""

import os
from collections.abc import Iterator, Mapping

from penstock.errors import InvalidRequestError
from penstock.v1.generation_pb2 import GenerateRequest, PromptPart, Start

CHUNK_SIZE_VARIABLE = "STREAM_REQUEST_CHUNK_SIZE"
DEFAULT_PART_BYTES = 32 * 1024
LEAST_PART_BYTES = 1024
MOST_PART_BYTES = 64 * 1024 * 1024


def part_bytes(given: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """Bytes of a piece: `given`, else STREAM_REQUEST_CHUNK_SIZE of the environment, else 32 KiB.

    InvalidRequestError names the argument or the variable when its value is not a size.
    """
    if given is not None:
        return _checked("request_chunk_bytes", given)
    text = environment.get(CHUNK_SIZE_VARIABLE)
    return _checked(CHUNK_SIZE_VARIABLE, text) if text else DEFAULT_PART_BYTES


def split_prompt(start: Start, most_bytes: int) -> tuple[GenerateRequest, ...]:
    """Moves a text prompt of more than most_bytes of UTF-8 out of `start`.

    Returns the messages that bring it instead, none when the prompt stays where it is.
    """
    encoded = start.prompt.encode()
    if len(encoded) <= most_bytes:
        return ()
    start.prompt_parts.SetInParent()  # of one oneof with the prompt, which is gone with this
    texts = list(cut(encoded, most_bytes))
    last = len(texts) - 1
    return tuple(
        GenerateRequest(prompt_part=PromptPart(text=text, last=index == last))
        for index, text in enumerate(texts)
    )


def cut(encoded: bytes, most_bytes: int) -> Iterator[str]:
    """UTF-8 text in pieces of at most most_bytes, which is 4 or more, cut between characters."""
    begin = 0
    while begin < len(encoded):
        end = begin + most_bytes
        while end < len(encoded) and encoded[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield encoded[begin:end].decode()
        begin = end


def _checked(name: str, value: int | str) -> int:
    try:
        size_bytes = int(value)
    except ValueError:
        size_bytes = -1
    if not LEAST_PART_BYTES <= size_bytes <= MOST_PART_BYTES:
        problem = f"got {value!r}; allowed: {LEAST_PART_BYTES} to {MOST_PART_BYTES} bytes"
        raise InvalidRequestError(f"{name}: {problem}", violations=((name, problem),))
    return size_bytes
