"""GenerationService: the Generate stream and CountTokens."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from engine.contract import Engine, EngineError
from flowcontrol.reasons import Reason
from flowcontrol.registry import StreamRegistry
from flowcontrol.stream_state import Input
from penstock.v1 import generation_pb2 as pb
from penstock.v1 import generation_pb2_grpc
from service.calls import answering_errors
from service.errors import ServiceError, abort, not_implemented
from service.models import require_model
from service.options import StreamOptions
from service.start_message import StartMessage, read_count_request, read_start
from service.stream import Stream

_log = structlog.get_logger("penstock.generation")

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves streams from one engine, within one registry."""

    def __init__(
        self,
        engine: Engine,
        registry: StreamRegistry,
        options: StreamOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._options = options
        self._clock = clock
        self._streams: set[Stream] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        """True once the server shuts down: new streams are refused."""

    async def idle(self) -> None:
        """Wait until no stream is in flight."""
        await self._idle.wait()

    def cut(self) -> None:
        """End every stream with UNAVAILABLE: the grace time of a shutdown is over."""
        for stream in tuple(self._streams):
            stream.take_error(ServiceError(Reason.DRAINING, "the server is shutting down"))

    async def Generate(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        """Reads and writes through context: only so can both directions be under way at once."""
        request_id = ""
        try:
            async with asyncio.timeout(self._options.default_timeout_s) as limit:
                start = read_start(await _read_first(context))
                request_id = start.request_id
                await self._serve(start, context, limit)
        except ServiceError as error:
            await abort(context, error, request_id)
        except TimeoutError:
            limit_s = self._options.default_timeout_s
            late = ServiceError(Reason.STREAM_TIMEOUT, f"the stream ran for longer than {limit_s:g} s")
            await abort(context, late, request_id)
        except Exception:
            if context.done():  # The connection was lost in the middle of a write.
                return
            _log.exception("stream failed", request_id=request_id)
            await abort(context, ServiceError(Reason.INTERNAL, "a defect of the server"), request_id)

    async def _serve(self, start: StartMessage, context: Context, limit: asyncio.Timeout) -> None:
        if self.draining:
            raise ServiceError(Reason.DRAINING, "the server is shutting down")
        model = require_model(self._engine.snapshot().model, start.model, "start.model")
        place = self._registry.admit()
        if place is None:
            most = self._registry.snapshot().max_active
            raise ServiceError(Reason.TOO_MANY_STREAMS, f"all {most} streams that may be active are taken")
        stream = Stream(self._engine, place, start, self._options, self._clock)
        self._streams.add(stream)
        self._idle.clear()
        how = Input.CANCEL
        reader: asyncio.Task[None] | None = None
        try:
            stream.submit()
            await context.write(stream.accepted(model.name))
            reader = asyncio.create_task(_read_rest(stream, context), name="ack reader")
            await self._write_all(stream, context)
        except asyncio.CancelledError:
            # From the caller (cancel, deadline, lost connection), or from our own limit.
            how = Input.FAIL if limit.expired() else Input.CANCEL
            raise
        except grpc.aio.InternalError as error:
            # A write fails before grpc.aio cancels the handler of a caller who is lost.
            raise asyncio.CancelledError from error
        except Exception:
            how = Input.FAIL
            raise
        finally:
            stream.close(how)
            self._streams.discard(stream)
            if not self._streams:
                self._idle.set()
            if reader is not None:
                reader.cancel()

    async def _write_all(self, stream: Stream, context: Context) -> None:
        """Write what the stream has to say until it has ended."""
        while not stream.ended:
            message = stream.next_message()
            if message is not None:
                await context.write(message)
                continue
            timeout_s = stream.ack_timeout_s()
            if timeout_s is None:
                await stream.wake.wait()
                continue
            try:
                await asyncio.wait_for(stream.wake.wait(), timeout_s)
            except TimeoutError:
                raise stream.ack_timed_out() from None

    @answering_errors
    async def CountTokens(
        self, request: pb.CountTokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CountTokensResponse:
        model_input = read_count_request(request)
        model = require_model(self._engine.snapshot().model, request.model, "model")
        try:
            tokens = await self._engine.count_tokens(model_input)
        except EngineError as error:
            raise ServiceError.from_engine(error, "") from error
        return pb.CountTokensResponse(prompt_tokens=tokens, model=model.name)


async def _read(context: Context) -> pb.GenerateRequest | None:
    """The next message, or None at the half-close. Raises ServiceError when its bytes are no message."""
    try:
        message = await context.read()
    except DecodeError as error:
        text = "the bytes are not a GenerateRequest (is a string not UTF-8?)"
        raise ServiceError(Reason.PROTOCOL_VIOLATION, text) from error
    return message if isinstance(message, pb.GenerateRequest) else None


async def _read_first(context: Context) -> pb.Start:
    message = await _read(context)
    kind = message.WhichOneof("message") if message is not None else None
    if message is None or kind is None:
        raise ServiceError(Reason.PROTOCOL_VIOLATION, "the first message must be start, got none")
    if kind != "start":
        raise ServiceError(Reason.PROTOCOL_VIOLATION, f"the first message must be start, got {kind}")
    return message.start


async def _read_rest(stream: Stream, context: Context) -> None:
    """Take acks and cancel until the caller half-closes."""
    try:
        while (message := await _read(context)) is not None:
            match message.WhichOneof("message"):
                case "ack":
                    stream.take_ack(message.ack.seq)
                case "cancel":
                    _log.info("cancelled by the caller", request_id=stream.request_id)
                    stream.take_cancel()
                case "start":
                    raise ServiceError(Reason.PROTOCOL_VIOLATION, "start came twice; it may come once")
                case "prompt_part":
                    raise not_implemented("prompt_part")
                case None:
                    raise ServiceError(Reason.PROTOCOL_VIOLATION, "a message must hold one of ack, cancel")
        stream.take_half_close()
    except ServiceError as error:
        stream.take_error(error)
    except Exception:
        if not context.done():
            _log.exception("reading failed", request_id=stream.request_id)
            stream.take_error(ServiceError(Reason.INTERNAL, "a defect of the server"))
