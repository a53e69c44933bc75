"""Prompts of the scripted engine: a prompt's tokens are its words."""

from dataclasses import dataclass, field

from engine.contract import EventSink
from engine.requests import ChatInput, GenerationRequest, ModelInput, TextInput, TokenInput, TokenisedInput


def count_words(model_input: ModelInput) -> int:
    """Tokens of a whole input."""
    match model_input:
        case TextInput():
            return len(model_input.text.split())
        case ChatInput():
            return sum(len(content.split()) for _, content in model_input.messages)
        case TokenInput() | TokenisedInput():
            return len(model_input.ids)
    return 0


@dataclass(slots=True)
class PromptPieces:
    """A stream whose prompt is still coming. words: of the pieces so far, joined."""

    request: GenerationRequest
    sink: EventSink
    pieces: list[str] = field(default_factory=list)
    words: int = 0
    paused: bool = False
    _in_word: bool = False

    def add(self, text: str) -> None:
        if not text:
            return
        goes_on = self._in_word and not text[0].isspace()
        self.pieces.append(text)
        self.words += len(text.split()) - goes_on
        self._in_word = not text[-1].isspace()

    def joined(self) -> TextInput:
        return TextInput("".join(self.pieces))
