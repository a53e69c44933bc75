"""A prompt that arrives in pieces."""

from engine.requests import GenerationRequest

# The last tokens of a text are the ones that more text may change.
_UNSTABLE_TOKENS = 16


class GrowingPrompt:
    """The text so far, and when to tokenise it. chars: its length.

    It is always tokenised from its beginning, since no tokenizer promises anything about joints. That
    is done each time it has doubled, so all of it costs at most three times the last one.
    """

    def __init__(self, request: GenerationRequest, submitted_s: float) -> None:
        self.request = request
        self.submitted_s = submitted_s
        self._pieces: list[str] = []
        self.chars = 0
        self._tokenised_chars = 0

    def add(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self.chars += len(text)

    @property
    def has_doubled(self) -> bool:
        """Whether the text is at least twice as long as when it was last taken."""
        return self.chars > 0 and self.chars >= 2 * self._tokenised_chars

    def take_text(self) -> str:
        """The text so far."""
        self._pieces = ["".join(self._pieces)]
        self._tokenised_chars = self.chars
        return self._pieces[0]

    @staticmethod
    def stable(ids: list[int]) -> list[int]:
        """The tokens that more text is not expected to change. A wrong guess costs time, not correctness."""
        return ids[:-_UNSTABLE_TOKENS]
