"""Long text prompts in pieces: how large a piece is, and where the text is cut."""

import os
from collections.abc import Iterator, Mapping

from penstock.errors import InvalidRequestError
from penstock.v1.generation_pb2 import GenerateRequest, PromptPart, Start

CHUNK_SIZE_VARIABLE = "STREAM_REQUEST_CHUNK_SIZE"
DEFAULT_PART_BYTES = 32 * 1024
LEAST_PART_BYTES = 1024
MOST_PART_BYTES = 64 * 1024 * 1024


def part_bytes(given: int | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """Bytes of a piece: `given`, else STREAM_REQUEST_CHUNK_SIZE of the environment; None: the server's.

    InvalidRequestError names the argument or the variable when its value is not a size.
    """
    if given is not None:
        return _checked("request_chunk_bytes", given)
    text = environment.get(CHUNK_SIZE_VARIABLE)
    return _checked(CHUNK_SIZE_VARIABLE, text) if text else None


class LongPrompt:
    """A text prompt that goes up in pieces once the stream is accepted."""

    def __init__(self, text: str, size_bytes: int | None) -> None:
        """size_bytes: of a piece, in UTF-8; None leaves it to the server."""
        self._encoded = text.encode()
        self._size_bytes = size_bytes

    def messages(self, told_bytes: int) -> Iterator[GenerateRequest]:
        """The pieces in order, made as they are asked for. told_bytes: what Accepted tells, 0 for none."""
        size_bytes = self._size_bytes or max(told_bytes or DEFAULT_PART_BYTES, LEAST_PART_BYTES)
        sent_bytes = 0
        for text in cut(self._encoded, size_bytes):
            sent_bytes += len(text.encode())
            last = sent_bytes == len(self._encoded)
            yield GenerateRequest(prompt_part=PromptPart(text=text, last=last))


def take_long_prompt(start: Start, size_bytes: int | None) -> LongPrompt | None:
    """Moves a text prompt that is longer than one piece (by default 32 KiB) out of `start`.

    None when the prompt stays where it is.
    """
    text = start.prompt
    if len(text.encode()) <= (size_bytes or DEFAULT_PART_BYTES):
        return None
    start.prompt_parts.SetInParent()  # of one oneof with the prompt, which is gone with this
    return LongPrompt(text, size_bytes)


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
