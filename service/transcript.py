"""Prompt and output of a stream in the log, where logging.prompts asks for it."""

from typing import Any

import structlog

from engine.contract import Engine, EventSink
from engine.events import Event, Finished, Token
from engine.requests import ChatInput, GenerationRequest, ModelInput, TextInput, TokenInput

_log = structlog.get_logger("penstock.transcript")


class Transcript:
    """Stands before the engine of one stream and keeps what passes. Every other call goes straight on."""

    def __init__(self, engine: Engine, request: GenerationRequest) -> None:
        self._engine = engine
        self._input = request.input
        self._parts: list[str] = []
        self._output: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        def listen(event: Event) -> None:
            if isinstance(event, Token | Finished):
                self._output.append(event.text)
            sink(event)

        return self._engine.submit(request, listen, prepared=prepared)

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        self._parts.append(text)
        self._engine.add_prompt_part(stream, text, last=last)

    def log(self) -> None:
        """At level debug. output: what the engine gave, which may be more than was sent."""
        prompt = "".join(self._parts) if self._parts else _readable(self._input)
        _log.debug("prompt and output", prompt=prompt, output="".join(self._output))


def _readable(model_input: ModelInput) -> object:
    match model_input:
        case TextInput():
            return model_input.text
        case ChatInput():
            return model_input.messages
        case TokenInput():
            return model_input.ids
    return ""
