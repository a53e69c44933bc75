"""Guesses how many tokens a prompt has, since admission comes before tokenising."""

from engine.requests import ChatInput, GenerationRequest, PartsInput, TextInput, TokenInput, TokenisedInput

# A usual tokenizer's bytes per token of English text, until prompts have shown this one's.
_FIRST_BYTES_PER_TOKEN = 4.0
# A prompt counts as much as this many bytes of those before it.
_MEMORY_BYTES = 65536.0


class PromptSizes:
    """Learns the bytes per token of the model's tokenizer, weighted by bytes: long prompts tell more."""

    def __init__(self) -> None:
        self._bytes = _MEMORY_BYTES / 16
        self._tokens = self._bytes / _FIRST_BYTES_PER_TOKEN

    def guess_tokens(self, request: GenerationRequest) -> int:
        """Tokens to compute before the next one, those of a resumed stream included; at least 1.

        Nothing is known of a prompt that comes in pieces: it counts as 1 until its pieces are tokenised.
        """
        known = len(request.resume_ids)
        if isinstance(request.input, TokenInput):
            return known + len(request.input.ids)
        return max(1, known + round(text_bytes(request) * self._tokens / self._bytes))

    def learn(self, prompt_bytes: int, tokens: int) -> None:
        """A prompt of so many bytes of text had so many tokens."""
        if prompt_bytes > 0 and tokens > 0:
            keep = max(0.0, 1 - prompt_bytes / _MEMORY_BYTES)
            self._bytes = self._bytes * keep + prompt_bytes
            self._tokens = self._tokens * keep + tokens


def text_bytes(request: GenerationRequest) -> int:
    """Bytes of a request's text; 0 for one that has none yet."""
    match request.input:
        case TextInput(text):
            return len(text.encode())
        case ChatInput(messages):
            return sum(len(role.encode()) + len(content.encode()) for role, content in messages)
        case PartsInput() | TokenInput() | TokenisedInput():
            return 0
