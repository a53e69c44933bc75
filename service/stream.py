"""One Generate stream between the engine and the caller: decides, never waits."""

import asyncio
from collections import deque
from collections.abc import Callable

from engine.contract import Engine, EngineError
from engine.events import Event, Failed, Finished, Prefill, Token
from flowcontrol.credits import AckBeyondSentError, CreditSnapshot, CreditWindow
from flowcontrol.outbox import Outbox
from flowcontrol.reasons import Reason
from flowcontrol.registry import Place
from flowcontrol.stream_state import Input
from penstock.v1 import generation_pb2 as pb
from service import responses
from service.errors import ServiceError
from service.options import StreamOptions
from service.responses import Piece
from service.start_message import StartMessage


def _bounded(wanted: int, most: int) -> int:
    """What the caller asked for, at most `most`; 0 asks for the most."""
    return min(wanted, most) if wanted else most


class Stream:
    """A stream from admission to its end. Owns its place and its row in the engine.

    The take_* methods note what happened and set `wake`; next_message says what to write. `close`
    gives everything back and must be called once, whatever happened.
    """

    def __init__(
        self,
        engine: Engine,
        place: Place,
        start: StartMessage,
        options: StreamOptions,
        clock: Callable[[], float],
    ) -> None:
        self.wake = asyncio.Event()
        self.ended = False
        """Whether next_message has given the last message."""
        self._engine = engine
        self._place = place
        self._start = start
        self._options = options
        self._clock = clock
        self._max_tokens_per_chunk = _bounded(start.max_tokens_per_chunk, options.max_tokens_per_chunk)
        self._credits = CreditWindow(
            _bounded(start.max_unacked_chunks, options.max_unacked_chunks), enforced=options.enforce_credits
        )
        self._outbox: Outbox[Piece] = Outbox(
            self._credits,
            max_items_per_chunk=self._max_tokens_per_chunk,
            max_backlog=options.max_backlog_tokens,
        )
        self._row: int | None = None
        self._row_paused = False
        self._progress: Prefill | None = None
        self._prompt_tokens = 0
        self._sent_tokens = 0
        self._end: Finished | None = None
        self._error: ServiceError | None = None
        self._cancelled = False
        self._submitted_s = 0.0
        self._accepted_s = 0.0
        self._first_token_s: float | None = None
        self._arrived_s: deque[float] = deque()
        self._stalled_since_s: float | None = None
        self._stalled_s = 0.0

    @property
    def request_id(self) -> str:
        return self._start.request_id

    def submit(self) -> None:
        """Hand the request to the engine. Raises ServiceError."""
        self._submitted_s = self._clock()
        try:
            self._row = self._engine.submit(self._start.request, self.take_event)
        except EngineError as error:
            raise ServiceError.from_engine(error, "start.") from error

    def accepted(self, model: str) -> pb.GenerateResponse:
        self._accepted_s = self._clock()
        enforced = self._options.enforce_credits
        return pb.GenerateResponse(
            accepted=pb.Accepted(
                request_id=self.request_id,
                model=model,
                max_unacked_chunks=self._credits.snapshot().window if enforced else 0,
                max_tokens_per_chunk=self._max_tokens_per_chunk,
                seed=self._start.request.sampling.seed,
            )
        )

    def take_event(self, event: Event) -> None:
        """The sink of the engine."""
        match event:
            case Token():
                if self._first_token_s is None:
                    self._first_token_s = self._clock()
                    self._place.apply(Input.TOKEN)
                if self._start.chunk_timing:
                    self._arrived_s.append(self._clock())
                self._outbox.push(event)
                if not self._row_paused and self._outbox.full:
                    self._pause_row()
            case Prefill():
                self._progress = event
                self._prompt_tokens = event.total
                if event.queue_position == 0:
                    self._place.apply(Input.PREFILL_STARTED)
            case Finished():
                self._row = None
                self._end = event
                if event.text:
                    self._outbox.push(event.text)
            case Failed():
                self._row = None
                engine_error = EngineError(event.reason, event.message, field=event.field)
                self._error = ServiceError.from_engine(engine_error, "start.")
        self.wake.set()

    def take_ack(self, seq: int) -> None:
        """Raises ServiceError when seq was not sent."""
        try:
            self._credits.ack(seq)
        except AckBeyondSentError as error:
            raise ServiceError(Reason.ACK_BEYOND_SENT, str(error)) from error
        self.wake.set()

    def take_half_close(self) -> None:
        """No more acks will come."""
        self._credits.half_close()
        self.wake.set()

    def take_cancel(self) -> None:
        """The caller wants no more: the row is given back now, even while a write is under way."""
        self._cancelled = True
        self._leave_engine()
        self.wake.set()

    def take_error(self, error: ServiceError) -> None:
        """The stream must end with this error."""
        self._error = self._error or error
        self._leave_engine()
        self.wake.set()

    def next_message(self) -> pb.GenerateResponse | None:
        """What to write now, or None when there is nothing to write. Raises ServiceError to end the stream.

        Errors and cancel come before everything that waits.
        """
        if self._error is not None:
            raise self._error
        if self._cancelled:
            return self._cancelled_message()
        taken = self._outbox.take()
        if taken is not None:
            return self._chunk(*taken)
        if self._end is not None and not self._outbox:
            self._place.apply(Input.FINISH)
            self.ended = True
            return responses.finished(
                self._end, first_token_s=self._time_to_first_token_s(), stalled_s=self._stalled_s
            )
        self._note_stall()
        if self._progress is not None and self._first_token_s is None:
            event, self._progress = self._progress, None
            return responses.progress(event)
        self.wake.clear()
        return None

    def ack_timeout_s(self) -> float | None:
        """Seconds that the caller has left to return credit; None while the stream is not stalled."""
        if self._stalled_since_s is None:
            return None
        return max(0.0, self._stalled_since_s + self._options.ack_timeout_s - self._clock())

    def ack_timed_out(self) -> ServiceError:
        credit = self.credits()
        return ServiceError(
            Reason.ACK_TIMEOUT,
            f"no ack for {self._options.ack_timeout_s:g} s with {credit.unacked} chunks not acked "
            f"(window {credit.window})",
        )

    def close(self, how: Input) -> None:
        """Give back the row and the place. how: CANCEL or FAIL, for a stream that has not ended."""
        self._leave_engine()
        self._outbox.clear()
        self._place.apply(how)

    def credits(self) -> CreditSnapshot:
        return self._credits.snapshot()

    def _chunk(self, seq: int, pieces: list[Piece]) -> pb.GenerateResponse:
        if self._stalled_since_s is not None:
            self._stalled_s += self._current_stall_s()
            self._stalled_since_s = None
            self._place.apply(Input.CREDIT_RETURNED)
        first = pieces[0]
        if len(pieces) == 1 and isinstance(first, Token) and first.logprobs is None:
            response = responses.single(seq, self._sent_tokens, first)
            tokens = 1
        else:
            response = responses.chunk(seq, self._sent_tokens, pieces)
            # Only the last piece of a stream can be text without a token.
            tokens = len(pieces) - isinstance(pieces[-1], str)
        self._sent_tokens += tokens
        if self._row_paused and self._outbox.drained and self._row is not None:
            self._row_paused = False
            self._engine.resume(self._row)
        if self._start.chunk_timing:
            self._add_timing(response.chunk.timing, tokens)
        return response

    def _add_timing(self, timing: pb.ChunkTiming, tokens: int) -> None:
        written_s = self._clock()
        arrived_s = written_s
        for _ in range(tokens):
            arrived_s = self._arrived_s.popleft()
        timing.engine_ms = (arrived_s - self._accepted_s) * 1e3
        timing.written_ms = (written_s - self._accepted_s) * 1e3

    def _cancelled_message(self) -> pb.GenerateResponse:
        self._place.apply(Input.CANCEL)
        self.ended = True
        return responses.cancelled(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._sent_tokens,
            first_token_s=self._time_to_first_token_s(),
            stalled_s=self._stalled_s + self._current_stall_s(),
        )

    def _note_stall(self) -> None:
        if self._outbox.stalled and self._stalled_since_s is None:
            self._stalled_since_s = self._clock()
            self._place.apply(Input.CREDIT_SPENT)

    def _current_stall_s(self) -> float:
        return 0.0 if self._stalled_since_s is None else self._clock() - self._stalled_since_s

    def _pause_row(self) -> None:
        if self._row is not None:
            self._row_paused = True
            self._engine.pause(self._row)

    def _leave_engine(self) -> None:
        row, self._row = self._row, None
        if row is not None:
            self._engine.cancel(row)

    def _time_to_first_token_s(self) -> float:
        return 0.0 if self._first_token_s is None else self._first_token_s - self._submitted_s
