"""Text of one stream, made token by token."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel, DecodeStream

# Enough for a decoder to see what stands before the output: a word's beginning, a split character.
_PROMPT_TAIL_TOKENS = 6


class TokenDecoder(Protocol):
    """Turns token ids into pieces of text that concatenate to the decoded whole."""

    def push(self, token_id: int) -> str:
        """The text that is certain with this token: "" while a character is not complete."""
        ...


class _TokenBytes(dict[int, bytes]):
    """The bytes that each token of a byte-level tokenizer stands for, found when first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token_id for token_id, token in added.items() if token.special}
        self._byte_of = _byte_of_character()

    def __missing__(self, token_id: int) -> bytes:
        text = None if token_id in self._special else self._tokenizer.id_to_token(token_id)
        found = self[token_id] = b"" if text is None else self._bytes(text)
        return found

    def _bytes(self, text: str) -> bytes:
        try:
            return bytes(self._byte_of[character] for character in text)
        except KeyError:  # An added token, which is written as it is.
            return text.encode()


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level tokenizers (`bytes_to_unicode` of GPT-2's encoder.py).

    Bytes that are printable in Latin-1 are their own characters, the others those from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class _ByteLevelDecoder:
    """For tokenizers whose tokens are runs of bytes, whatever stands before them."""

    def __init__(self, token_bytes: _TokenBytes, prompt_tail: Sequence[int]) -> None:
        """With the prompt's end before it, a character that the prompt began is completed."""
        self._bytes = token_bytes
        # The beginning of a character.
        self._held = b""
        for token_id in prompt_tail:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        found = self._held + self._bytes[token_id]
        text, taken = codecs.utf_8_decode(found, "replace", False)
        self._held = found[taken:]
        return text


class _RustDecoder:
    """The incremental decoder of the tokenizers library, begun with the end of the prompt.

    With the prompt's end in it the first piece keeps its leading space where the prompt's last word
    is continued by a new word, and a character that the prompt began is completed.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_tail: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._last: list[int] = []
        # Stepped through, not given to DecodeStream: that repeats the prompt after an incomplete character.
        for token_id in prompt_tail:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except Exception as error:
            # Some decoders change earlier text when bytes turn out not to be UTF-8; the library then
            # gives up on the stream. Going on with a new one loses only the broken character; with
            # the token before in it, the text that follows keeps its leading space.
            if "prefix" not in str(error):
                raise
            self._stream = DecodeStream(ids=self._last, skip_special_tokens=True)
            text = self._stream.step(self._tokenizer, token_id)
        self._last = [token_id]
        return text or ""


class _MlxLmDecoder:
    """mlx-lm's own streaming detokenizer, for tokenizers without a Rust one."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._detokenizer = tokenizer.detokenizer

    def push(self, token_id: int) -> str:
        self._detokenizer.add_token(token_id)
        return str(self._detokenizer.last_segment)


class DecoderFactory:
    """Makes decoders. Has a tokenizer of its own, since another thread encodes at the same time."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._wrapper = tokenizer
        backend = getattr(tokenizer._tokenizer, "backend_tokenizer", None)
        self._rust = Tokenizer.from_str(backend.to_str()) if isinstance(backend, Tokenizer) else None
        self._bytes: _TokenBytes | None = None
        if self._rust is not None and isinstance(self._rust.decoder, ByteLevel):
            self._bytes = _TokenBytes(self._rust)

    def make(self, prompt_ids: Sequence[int]) -> TokenDecoder:
        """A decoder for the output that follows prompt_ids."""
        tail = prompt_ids[-_PROMPT_TAIL_TOKENS:]
        if self._bytes is not None:
            return _ByteLevelDecoder(self._bytes, tail)
        if self._rust is not None:
            return _RustDecoder(self._rust, tail)
        return _MlxLmDecoder(self._wrapper)
