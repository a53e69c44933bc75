"""Text of one stream, made token by token."""

from collections.abc import Sequence
from typing import Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# Enough for a decoder to see what stands before the output: a word's beginning, a split character.
_PROMPT_TAIL_TOKENS = 6


class TokenDecoder(Protocol):
    """Turns token ids into pieces of text that concatenate to the decoded whole."""

    def push(self, token_id: int) -> str:
        """The text that is certain with this token: "" while a character is not complete."""
        ...


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

    def make(self, prompt_ids: Sequence[int]) -> TokenDecoder:
        """A decoder for the output that follows prompt_ids."""
        if self._rust is None:
            return _MlxLmDecoder(self._wrapper)
        return _RustDecoder(self._rust, prompt_ids[-_PROMPT_TAIL_TOKENS:])
