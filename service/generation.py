"""GenerationService: the Generate stream and CountTokens."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from engine.contract import Engine, EngineError, ModelInfo
from engine.hosted_model import Hold
from engine.model_host import ModelHost
from flowcontrol.features import ALL_ON, FeatureName, FeatureTable, StreamFeatures
from flowcontrol.reasons import Reason
from flowcontrol.registry import StreamRegistry
from flowcontrol.stream_state import Input
from penstock.v1 import generation_pb2 as pb
from penstock.v1 import generation_pb2_grpc
from service.admission import Admission, Seat
from service.calls import answering_errors
from service.causes import is_refusal
from service.errors import ServiceError, Violation, abort
from service.identity import tenant_of
from service.message_pool import MessagePool
from service.observation import Observation, StreamLabels
from service.options import StreamOptions
from service.start_message import StartMessage, read_count_request, read_start
from service.stream import Stream
from service.stream_snapshot import StreamSnapshot
from service.telemetry.stream_trace import UNTRACED, Children, Moment, trace_of
from service.transcript import Transcript

_log = structlog.get_logger("penstock.generation")

# To grpc.aio's reader a lost caller looks like one that half-closes; its handler is cancelled just after.
_LOST_CALLER_S = 0.1

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves streams from the models, as admission lets them.

    pool: None to make each message anew. observation: told of every stream; None for nobody.
    features: None to have all of them on for every stream. spans: takes those of streams whose call is
    recorded; None for none.
    """

    def __init__(
        self,
        models: ModelHost,
        registry: StreamRegistry,
        admission: Admission,
        options: StreamOptions,
        pool: MessagePool | None,
        observation: Observation | None = None,
        *,
        features: FeatureTable | None = None,
        spans: Children | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._registry = registry
        self._admission = admission
        self._options = options
        self._pool = pool
        self._spans = spans
        self._observation = observation or Observation(())
        self._features = features
        self._clock = clock
        self._streams: dict[Stream, None] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no stream is left."""
        await self._idle.wait()

    def snapshots(self) -> list[StreamSnapshot]:
        """The streams in flight and those that wait, oldest first."""
        return [stream.snapshot() for stream in self._streams]

    def cut(self) -> None:
        """End every stream with UNAVAILABLE: the grace time of a shutdown is over."""
        for stream in tuple(self._streams):
            stream.take_error(ServiceError(Reason.DRAINING, "the server is shutting down"))

    def note_remediation(self, action: str, cause: str) -> None:
        """Put an event into the traces of all streams in flight."""
        for stream in self._streams:
            stream.trace.note(Moment.REMEDIATION, action=action, cause=cause)

    async def Generate(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        """Reads and writes through context: only so can both directions be under way at once."""
        request_id = ""
        try:
            start = read_start(await self._read_first(context))
            request_id = start.request_id
            # For the log. Each call is a task of its own, and so is this context.
            structlog.contextvars.bind_contextvars(request_id=request_id)
            await self._serve(start, context)
        except ServiceError as error:
            await abort(context, error, request_id)
        except Exception:
            if context.done():  # The connection was lost in the middle of a write.
                return
            _log.exception("stream failed", request_id=request_id)
            await abort(context, ServiceError(Reason.INTERNAL, "a defect of the server"), request_id)

    async def _read_first(self, context: Context) -> pb.Start:
        limit_s = self._options.idle_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                message = await _read(context)
        except TimeoutError:
            raise ServiceError(Reason.IDLE_TIMEOUT, f"no start came for {limit_s:g} s") from None
        kind = message.WhichOneof("message") if message is not None else None
        if message is None or kind is None:
            raise ServiceError(Reason.PROTOCOL_VIOLATION, "the first message must be start, got none")
        if kind != "start":
            raise ServiceError(Reason.PROTOCOL_VIOLATION, f"the first message must be start, got {kind}")
        return message.start

    async def _serve(self, start: StartMessage, context: Context) -> None:
        try:
            hold = self._models.hold(start.model)
        except EngineError as error:
            refusal = ServiceError.from_engine(error, "start.")
            self._note_refusal(refusal, None)
            raise refusal from error
        with hold:
            await self._serve_from(hold, start, context)

    async def _serve_from(self, hold: Hold, start: StartMessage, context: Context) -> None:
        _check_fingerprint(start, hold.info)
        tenant = tenant_of(context)
        features = ALL_ON if self._features is None else self._features.of(start.request_id, tenant)
        start = start.of_tenant(tenant).with_features(features)
        try:
            _check_ready(hold)
            seat = self._admission.ask(start, tenant, context.time_remaining())
        except ServiceError as error:
            asked = StreamLabels(hold.info.name, self._admission.asked_class(start), features.arm)
            self._note_refusal(error, asked)
            raise
        transcript = Transcript(hold.engine, start.request) if self._options.log_prompts else None
        engine = hold.engine if transcript is None else cast(Engine, transcript)
        labels = StreamLabels(hold.info.name, seat.service_class, features.arm)
        stream = self._new_stream(engine, seat, start, features, labels)
        self._streams[stream] = None
        self._idle.clear()
        hold.cut = lambda: stream.take_error(_unloaded(hold.info))
        how, failure = Input.CANCEL, None
        try:
            async with asyncio.timeout(None) as alarm:
                stream.watch(lambda deadline_s: self._arm(alarm, deadline_s))
                await self._run(stream, hold.info, context)
        except TimeoutError:  # A timer of the stream; asyncio cancelled what was under way.
            how, failure = Input.FAIL, stream.timed_out()
            raise failure from None
        except grpc.aio.InternalError as error:
            # A write fails before grpc.aio cancels the handler of a caller who is lost.
            raise asyncio.CancelledError from error
        except ServiceError as error:
            how, failure = Input.FAIL, error
            raise
        except Exception:
            # Any error out of a lost connection is the loss.
            how = Input.CANCEL if context.done() else Input.FAIL
            raise
        finally:
            stream.close(how, failure)
            if transcript is not None:
                transcript.log()
            del self._streams[stream]
            if not self._streams:
                self._idle.set()

    async def _run(self, stream: Stream, model: ModelInfo, context: Context) -> None:
        """Begin, and write what the stream has to say until it has ended."""
        stream.begin()
        await context.write(stream.accepted(model))
        # The call ends it: a read that is cancelled leaks memory (github.com/grpc/grpc issue 43360).
        reader = asyncio.create_task(_read_rest(stream, context), name="ack reader")
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        while not stream.ended:
            message = stream.next_message()
            if message is None:
                await stream.wake.wait()
            else:
                await context.write(message)

    def _new_stream(
        self, engine: Engine, seat: Seat, start: StartMessage, features: StreamFeatures, labels: StreamLabels
    ) -> Stream:
        pool = self._pool if FeatureName.POOLING in features.on else None
        recorded = trace_of(self._spans, start.request, self._clock)
        return Stream(
            engine,
            self._registry.admit(),
            seat,
            start,
            self._options,
            self._clock,
            pool.lease() if pool is not None else None,
            self._observation.stream(labels, *(() if recorded is None else (recorded,))),
            recorded or UNTRACED,
            coalesce=FeatureName.COALESCING in features.on,
        )

    def _note_refusal(self, error: ServiceError, labels: StreamLabels | None) -> None:
        """A request gets no stream: count it, unless the request itself is wrong."""
        if is_refusal(error.reason):
            self._observation.refused(labels, error.reason)

    def _arm(self, alarm: asyncio.Timeout, deadline_s: float | None) -> None:
        """Let the alarm go off at a time of the stream's clock."""
        if alarm.expired():
            return
        if deadline_s is None:
            alarm.reschedule(None)
        else:
            alarm.reschedule(asyncio.get_running_loop().time() + deadline_s - self._clock())

    @answering_errors
    async def CountTokens(
        self, request: pb.CountTokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CountTokensResponse:
        model_input = read_count_request(request)
        try:
            with self._models.hold(request.model) as hold:
                tokens = await hold.engine.count_tokens(model_input)
        except EngineError as error:
            raise ServiceError.from_engine(error, "") from error
        return pb.CountTokensResponse(prompt_tokens=tokens, model=hold.info.name)


async def _read(context: Context) -> pb.GenerateRequest | None:
    """The next message, or None at the half-close. Raises ServiceError when its bytes are no message."""
    try:
        message = await context.read()
    except DecodeError as error:
        text = "the bytes are not a GenerateRequest (is a string not UTF-8?)"
        raise ServiceError(Reason.PROTOCOL_VIOLATION, text) from error
    return message if isinstance(message, pb.GenerateRequest) else None


def _check_ready(hold: Hold) -> None:
    """Admission knows the engines as one; this one may be down while others are not."""
    try:
        hold.engine.check_ready()
    except EngineError as error:
        raise ServiceError.from_engine(error, "start.") from error


def _unloaded(model: ModelInfo) -> ServiceError:
    return ServiceError(Reason.MODEL_UNLOADED, f'the model "{model.name}" was unloaded')


def _check_fingerprint(start: StartMessage, model: ModelInfo) -> None:
    if start.model_fingerprint in ("", model.fingerprint):
        return
    text = f"the stream was begun by another model or tokenizer; {model.name} is {model.fingerprint}"
    field = "start.resume.model_fingerprint"
    raise ServiceError(Reason.INVALID_REQUEST, f"{field}: {text}", violations=[Violation(field, text)])


async def _read_rest(stream: Stream, context: Context) -> None:
    """Take pieces of the prompt, acks and cancel until the caller half-closes or the stream has ended."""
    try:
        while (message := await _read(context)) is not None and not stream.ended:
            match message.WhichOneof("message"):
                case "ack":
                    stream.take_ack(message.ack.seq)
                case "cancel":
                    _log.info("cancelled by the caller", request_id=stream.request_id)
                    stream.take_cancel()
                case "start":
                    raise ServiceError(Reason.PROTOCOL_VIOLATION, "start came twice; it may come once")
                case "prompt_part":
                    part = message.prompt_part
                    stream.take_prompt_part(part.text, last=part.last)
                    await stream.room_for_parts()
                case None:
                    text = "a message must hold one of prompt_part, ack, cancel"
                    raise ServiceError(Reason.PROTOCOL_VIOLATION, text)
        if stream.parts.missing:
            await asyncio.sleep(_LOST_CALLER_S)
        if not stream.ended:
            stream.take_half_close()
    except ServiceError as error:
        stream.take_error(error)
    except Exception:
        if not stream.ended and not context.done():
            _log.exception("reading failed", request_id=stream.request_id)
            stream.take_error(ServiceError(Reason.INTERNAL, "a defect of the server"))
