"""One call: sends a request and notes what comes."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

from penstock import GenerateOptions, PenstockError, Stream
from penstock.v1.generation_pb2 import GenerateResponse
from service.load.attempt import Attempt, Ending, ending_of
from service.load.connections import Connections
from service.load.options import LoadOptions
from service.load.requests import Request


class Caller(Protocol):
    """Makes calls."""

    async def call(self, request: Request, attempt: Attempt) -> None:
        """Runs one call to its end and fills `attempt`. Cancelled: ends the call, as UNFINISHED."""


class ClientCaller:
    """A Caller with the project's own client: it acknowledges what it reads, and reads at once.

    clock: seconds since the run began.
    """

    def __init__(self, connections: Connections, options: LoadOptions, clock: Callable[[], float]) -> None:
        self._connections = connections
        self._clock = clock
        self._options: GenerateOptions = {
            "model": options.model,
            "max_tokens": options.max_tokens,
            "ignore_eos": options.ignore_eos or None,
            "priority": options.priority,
            "timeout_s": options.timeout_s,
        }

    async def call(self, request: Request, attempt: Attempt) -> None:
        accepted = False
        options: GenerateOptions = {**self._options, "seed": request.seed}
        with self._connections.borrow(request.tenant) as client:
            stream = client.generate(request.prompt, **options)
            try:
                async with aclosing(stream.events()) as events:
                    async for event in events:
                        accepted = True
                        self._note(event, attempt)
                attempt.ended_s = self._clock()
                _note_end(stream, attempt)
            except PenstockError as error:
                attempt.ended_s = self._clock()
                attempt.ending, attempt.cause = ending_of(error, accepted=accepted, tokens=attempt.tokens)
                attempt.message, attempt.retry_after_s = error.message, error.retry_after_s
            except asyncio.CancelledError:
                attempt.ended_s = self._clock()
                raise

    def _note(self, event: GenerateResponse, attempt: Attempt) -> None:
        tokens = len(event.chunk.token_ids)
        if tokens:
            attempt.arrived_s.append(self._clock())
            attempt.arrived_tokens.append(tokens)


def _note_end(stream: Stream, attempt: Attempt) -> None:
    timing = stream.finished.timing
    attempt.ending = Ending.ANSWERED
    attempt.queue_s, attempt.admission_s = timing.queue_ms / 1000, timing.admission_ms / 1000
