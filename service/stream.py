"""One Generate stream between the engine and the caller: decides, never waits."""

import asyncio
from collections import deque
from collections.abc import Callable

from engine.contract import Engine, EngineError, ModelInfo
from engine.events import Assigned, Event, Failed, Finished, Interrupted, Prefill, Token
from engine.requests import PartsInput
from flowcontrol.admission.ask import Outcome
from flowcontrol.credits import AckBeyondSentError, CreditSnapshot, CreditWindow
from flowcontrol.pool import Lease
from flowcontrol.reasons import Reason
from flowcontrol.registry import Place
from flowcontrol.stream_state import Input
from flowcontrol.timers import Timer
from penstock.v1 import generation_pb2 as pb
from service import responses
from service.admission import Seat
from service.errors import ServiceError
from service.observation import UNOBSERVED, StreamObserver
from service.options import StreamOptions
from service.prompt_parts import PromptParts
from service.responses import ChunkMessage, Piece
from service.slow_reader import SlowReader
from service.start_message import StartMessage
from service.stream_deadlines import Rearm, StreamDeadlines
from service.stream_end import cause_of, permit_outcome, tell_end
from service.stream_outbox import stream_outbox
from service.stream_row import StreamRow
from service.stream_snapshot import StreamSnapshot
from service.stream_times import StreamTimes
from service.telemetry.stream_trace import UNTRACED, Moment, StreamTrace


def _bounded(wanted: int, most: int) -> int:
    """What the caller asked for, at most `most`; 0 asks for the most."""
    return min(wanted, most) if wanted else most


class Stream:
    """A stream from admission to its end. Owns its place, its seat, its row and its pooled message.

    The take_* methods note what happened and set `wake`; next_message says what to write. The place is
    free in the call in which the end is known. `close` gives everything back and must be called once,
    whatever happened.
    """

    def __init__(
        self,
        engine: Engine,
        place: Place,
        seat: Seat,
        start: StartMessage,
        options: StreamOptions,
        clock: Callable[[], float],
        lease: Lease[ChunkMessage] | None = None,
        observer: StreamObserver = UNOBSERVED,
        trace: StreamTrace = UNTRACED,
        *,
        coalesce: bool = True,
    ) -> None:
        """coalesce: False for one token in each chunk, also for a reader that is behind."""
        self.trace = trace
        self.wake = asyncio.Event()
        self.ended = False
        """Whether next_message has given the last message."""
        self.parts = PromptParts(
            awaited=isinstance(start.request.input, PartsInput), max_bytes=options.max_prompt_bytes
        )
        self._place = place
        self._seat = seat
        self._row = StreamRow(engine, start.request, self.take_event, trace)
        self._start = start
        self._options = options
        self._clock = clock
        self._lease = lease
        self._max_tokens_per_chunk = _bounded(start.max_tokens_per_chunk, options.max_tokens_per_chunk)
        self._credits = CreditWindow(
            _bounded(start.max_unacked_chunks, options.max_unacked_chunks),
            enforced=options.enforce_credits,
            last_seq=start.last_seq,
        )
        self._reader = SlowReader(options, place, start.request_id)
        most = self._max_tokens_per_chunk if coalesce else 1
        self._outbox = stream_outbox(self._credits, options, max_tokens_per_chunk=most)
        self._deadlines = StreamDeadlines(options, clock)
        self._progress: Prefill | None = None
        self._told_position = 0
        self._notices: deque[pb.GenerateResponse] = deque()
        self._prompt_tokens = 0
        self._sent_tokens = len(start.request.resume_ids)
        self._end: Finished | None = None
        # Text without a token. It gets a chunk of its own, since it comes again after a resume.
        self._tail = ""
        self._error: ServiceError | None = None
        self._cancelled = False
        self._times = StreamTimes(clock, trace)
        # Told of the end once, and then no more.
        self._observer = observer
        self._note_token = observer.token if observer.listening else None

    @property
    def request_id(self) -> str:
        return self._start.request_id

    def watch(self, rearm: Rearm) -> None:
        """Have `rearm` told of the next deadline from now on; when it passes, call timed_out."""
        self._deadlines.watch(self._times.asked_s, rearm)
        if self.parts.missing:
            self._deadlines.await_caller()

    def begin(self) -> None:
        """Hand the request to the engine, or wait for the permit first. Raises ServiceError."""
        if self._seat.waiting:
            self._row.prepare()
            self._seat.changed = self._take_decision
        else:
            self._submit()

    def _submit(self) -> None:
        self._times.submitted()
        self._row.submit()

    def _take_decision(self) -> None:
        """The seat has changed."""
        refusal = self._seat.refusal
        if refusal is not None:
            self.take_error(refusal)
        elif self._seat.admitted and not self._row.submitted:
            try:
                self._submit()
            except ServiceError as error:
                self.take_error(error)
        self.wake.set()

    def accepted(self, model: ModelInfo) -> pb.GenerateResponse:
        self._times.accepted()
        enforced = self._options.enforce_credits
        return responses.accepted(
            self._start,
            model,
            max_unacked_chunks=self.credits().window if enforced else 0,
            max_tokens_per_chunk=self._max_tokens_per_chunk,
            prompt_part_bytes=self._options.request_chunk_bytes,
        )

    def take_event(self, event: Event) -> None:
        """The sink of the engine."""
        match event:
            case Token():
                if not self._times.has_token:
                    self._times.first_token()
                    self._place.apply(Input.TOKEN)
                    self._seat.first_token()
                    self._observer.first_token(self._times.to_first_token_s)
                if self._note_token is not None:
                    self._note_token(self._clock())
                if self._start.chunk_timing:
                    self._times.token_arrived()
                self._outbox.push(event)
                if not self._row.paused and self._outbox.full:
                    self._pause_row()
            case Prefill():
                self._take_prefill(event)
            case Assigned():
                self.trace.note(Moment.ASSIGNED, worker=event.worker, pid=event.pid)
                self._seat.place_known(True)
            case Interrupted():
                self.trace.note(Moment.FAILOVER)
                self._seat.interrupted()
                self._notices.append(responses.failover())
            case Finished():
                self._row.ended()
                self._seat.left_engine()
                self._end = event
                self._tail = event.text
            case Failed():
                self._row.ended()
                engine_error = EngineError(event.reason, event.message, field=event.field)
                self.take_error(ServiceError.from_engine(engine_error, "start."))
        self.wake.set()

    def _take_prefill(self, event: Prefill) -> None:
        if self._times.has_token:
            return  # After a failover: prompt and output are computed again, which is no news of the prompt.
        self._progress = event
        if event.total:
            self._seat.prompt_known(event.total)
        self._prompt_tokens = max(0, event.total - len(self._start.request.resume_ids))
        self._seat.place_known(event.queue_position == 0)
        if event.queue_position == 0:
            self.trace.note(Moment.PREFILL)
            self._place.apply(Input.PREFILL_STARTED)

    def take_prompt_part(self, text: str, *, last: bool) -> None:
        """Raises ServiceError for a piece that may not come, or is too long."""
        self.parts.take(text, last=last)
        self._row.add_prompt_part(text, last=last)
        if last or not self._row.wants_parts:
            self._deadlines.clear(Timer.IDLE)
        else:
            self._deadlines.await_caller()

    async def room_for_parts(self) -> None:
        """Wait until another piece of the prompt may come; meanwhile the caller is not called idle."""
        if not self._row.wants_parts:
            await self._row.room_for_parts()
            if self.parts.missing and not self.ended:
                self._deadlines.await_caller()

    def take_ack(self, seq: int) -> None:
        """Raises ServiceError when seq was not sent."""
        try:
            self._credits.ack(seq)
        except AckBeyondSentError as error:
            raise ServiceError(Reason.ACK_BEYOND_SENT, str(error)) from error
        if self._reader.times.acked(seq, self._clock()):
            self._notices.append(self._reader.found(unacked=self.credits().unacked))
        self.wake.set()

    def take_half_close(self) -> None:
        """No more acks will come. Raises ServiceError when pieces of the prompt are missing."""
        self.parts.check_complete()
        self._credits.half_close()
        self._reader.times.clear()
        self.wake.set()

    def take_cancel(self) -> None:
        """The caller wants no more: all is given back now, even while a write is under way."""
        self._cancelled = True
        self._leave(Input.CANCEL)

    def take_error(self, error: ServiceError) -> None:
        """The stream must end with this error."""
        self._error = self._error or error
        self._leave(Input.FAIL)

    def next_message(self) -> pb.GenerateResponse | None:
        """What to write now, or None when there is nothing to write. Raises ServiceError to end the stream.

        Errors and cancel come before everything that waits. A chunk may be overwritten by the next call.
        """
        if self._error is not None:
            raise self._error
        if self._cancelled:
            return self._cancelled_message()
        if self._notices:
            return self._notices.popleft()
        if self._tail and not self._outbox:
            self._outbox.push(self._tail)
            self._tail = ""
        taken = self._outbox.take()
        if taken is not None:
            return self._chunk(*taken)
        if self._end is not None and not self._outbox:
            self._place.apply(Input.FINISH)
            self._seat.end(Outcome.SUCCESS, self._sent_tokens)
            self._tell_end(Input.FINISH)
            self.ended = True
            return responses.finished(
                self._end,
                admission_s=self._times.admission_s,
                first_token_s=self._times.to_first_token_s,
                stalled_s=self._times.stalled_s,
            )
        self._note_stall()
        progress = self._next_progress()
        if progress is None:
            self.wake.clear()
        return progress

    def timed_out(self) -> ServiceError:
        """The error with which the stream ends, when the deadline last told to `rearm` has passed."""
        return self._deadlines.passed(self.credits())

    def close(self, how: Input, error: ServiceError | None = None) -> None:
        """Give everything back. how: CANCEL or FAIL, for a stream that has not ended; error: with what."""
        self.ended = True
        self._deadlines.unwatch()
        self._error = self._error or error
        self._leave(how)
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def credits(self) -> CreditSnapshot:
        return self._credits.snapshot()

    def snapshot(self) -> StreamSnapshot:
        return StreamSnapshot(
            request_id=self.request_id,
            state=self._place.state,
            credits=self.credits(),
            stalled_s=self._times.current_stall_s,
            waiting_tokens=len(self._outbox),
            parked=self._row.paused,
            mean_ack_s=self._reader.times.mean_s,
            slow=self._reader.times.slow,
            age_s=self._times.age_s,
            tenant=self._seat.tenant,
            service_class=self._seat.service_class,
            queue_position=self._seat.position,
            sent_tokens=self._new_tokens,
        )

    def _chunk(self, seq: int, pieces: list[Piece]) -> pb.GenerateResponse:
        if self._times.stalled:
            self._end_stall()
            self._deadlines.clear(Timer.ACK_TIMEOUT)
            self._place.apply(Input.CREDIT_RETURNED)
        self._reader.times.sent(seq, self._clock())
        if self._lease is not None and self._start.request.logprobs is None:
            message = self._lease.use()
            message.fill(seq, self._sent_tokens, pieces)
            response = message.response
        else:
            response = responses.chunk(seq, self._sent_tokens, pieces)
        tokens = 0 if isinstance(pieces[0], str) else len(pieces)
        self._sent_tokens += tokens
        if tokens > 1:
            self._place.coalesced(tokens - 1)
        if self._row.paused and self._outbox.drained:
            self._row.resume()
            self._place.resumed()
            self._observer.release()
        if self._start.chunk_timing:
            self._times.fill(response.chunk.timing, tokens)
        return response

    def _next_progress(self) -> pb.GenerateResponse | None:
        """What is new of a stream that waits, or whose prompt is being computed."""
        if self._seat.waiting and self._seat.position != self._told_position:
            self._told_position = self._seat.position
            return responses.waiting(self._told_position, wait_s=self._seat.wait_s)
        if self._progress is None or self._times.has_token:
            return None
        event, self._progress = self._progress, None
        return responses.progress(event)

    def _cancelled_message(self) -> pb.GenerateResponse:
        self.ended = True
        return responses.cancelled(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._sent_tokens,
            first_token_s=self._times.to_first_token_s,
            stalled_s=self._times.stalled_s,
        )

    def _note_stall(self) -> None:
        if self._outbox.stalled and not self._times.stalled:
            self._deadlines.await_ack(self._times.stall())
            self._place.apply(Input.CREDIT_SPENT)
            self._observer.hold()

    def _end_stall(self) -> None:
        self._place.stall_ended(self._times.unstall())
        if not self._row.paused:
            self._observer.release()

    def _pause_row(self) -> None:
        self._row.pause()
        self._place.parked()
        self._observer.hold()
        # Also while the writer is blocked in a write, so that the ack timeout runs.
        self._note_stall()

    def _leave(self, how: Input) -> None:
        """Give back the row, what waits, and the place."""
        self._row.leave()
        self._outbox.clear()
        self._deadlines.clear(Timer.ACK_TIMEOUT, Timer.IDLE)
        self._place.apply(how)
        self._seat.end(permit_outcome(self._error, has_token=self._times.has_token), self._sent_tokens)
        self._tell_end(how)
        self.wake.set()

    def _tell_end(self, how: Input) -> None:
        if self._times.stalled:
            self._end_stall()
        observer, self._observer = self._observer, UNOBSERVED
        out_of_time = self._seat.out_of_time and not self._cancelled
        tell_end(
            observer,
            self.request_id,
            self._seat,
            self._times,
            how=cause_of(how, self._end, self._error, out_of_time=out_of_time),
            finished=self._end,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._new_tokens,
        )

    @property
    def _new_tokens(self) -> int:
        """Tokens sent, without those that the caller had before."""
        return self._sent_tokens - len(self._start.request.resume_ids)
