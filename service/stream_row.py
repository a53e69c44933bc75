"""One stream's row in the engine, from the wait for its permit to its end."""

import asyncio

from engine.contract import Engine, EngineError, EventSink
from engine.requests import ChatInput, GenerationRequest, TextInput
from service.errors import ServiceError
from service.telemetry.stream_trace import Moment, StreamTrace

# Of a prompt that comes in pieces, while the stream waits for its permit. The rest stays with the caller.
_MOST_KEPT_CHARACTERS = 256 * 1024


class StreamRow:
    """What the stream wants of the engine; kept until the row is submitted, passed on from then on."""

    def __init__(
        self, engine: Engine, request: GenerationRequest, sink: EventSink, trace: StreamTrace
    ) -> None:
        self.paused = False
        self.submitted = False
        self._engine = engine
        self._request = request
        self._sink = sink
        self._trace = trace
        self._row: int | None = None
        # The number of its tokenised input at the engine, 0 for none.
        self._prepared = 0
        # Pieces of the prompt that came before there was a row.
        self._parts: list[tuple[str, bool]] = []
        self._kept_characters = 0
        self._wants_parts = asyncio.Event()
        self._wants_parts.set()

    def prepare(self) -> None:
        """It waits for its permit: let the engine tokenise the input meanwhile."""
        if isinstance(self._request.input, TextInput | ChatInput):
            self._prepared = self._engine.prepare(self._request)

    def submit(self) -> None:
        """Hand it to the engine. Raises ServiceError."""
        self.submitted = True
        self._wants_parts.set()
        try:
            self._row = self._engine.submit(self._request, self._sink, prepared=self._prepared)
        except EngineError as error:
            raise ServiceError.from_engine(error, "start.") from error
        self._prepared = 0
        for text, last in self._parts:
            self._engine.add_prompt_part(self._row, text, last=last)
        self._parts.clear()

    def add_prompt_part(self, text: str, *, last: bool) -> None:
        if self._row is not None:
            self._engine.add_prompt_part(self._row, text, last=last)
        elif not self.submitted:
            self._parts.append((text, last))
            self._kept_characters += len(text)
            if self._kept_characters >= _MOST_KEPT_CHARACTERS:
                self._wants_parts.clear()

    @property
    def wants_parts(self) -> bool:
        """Whether there is room for another piece of the prompt."""
        return self._wants_parts.is_set()

    async def room_for_parts(self) -> None:
        """Wait until there is: who waits for a permit may not fill the memory with its prompt."""
        await self._wants_parts.wait()

    def pause(self) -> None:
        if self._row is not None:
            self.paused = True
            self._trace.note(Moment.PARK)
            self._engine.pause(self._row)

    def resume(self) -> None:
        if self._row is not None:
            self.paused = False
            self._trace.note(Moment.RESUME)
            self._engine.resume(self._row)

    def ended(self) -> None:
        """The engine has ended it by itself."""
        self._trace.note(Moment.ROW_ENDED)
        self._row = None

    def leave(self) -> None:
        """Give back the row, or what was prepared for it; nothing if it is gone."""
        row, self._row = self._row, None
        prepared, self._prepared = self._prepared, 0
        if prepared:
            self._engine.forget(prepared)
        self._parts.clear()
        self._wants_parts.set()
        if row is not None:
            self._engine.cancel(row)
