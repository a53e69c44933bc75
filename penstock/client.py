"""The asyncio client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Self, Unpack

import grpc

from penstock.channel import ChannelOptions, channel_options, default_target
from penstock.duplex import AioCall, Duplex
from penstock.errors import CancelledStreamError, from_rpc_error
from penstock.receiver import StreamResults
from penstock.request import GenerateOptions, Prompt, build_count, build_start
from penstock.v1.generation_pb2 import Ack, Cancel, Chunk, GenerateRequest, GenerateResponse, Start
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from penstock.v1.input_pb2 import ChatMessage
from penstock.v1.model_pb2 import ListModelsRequest, Model
from penstock.v1.model_pb2_grpc import ModelServiceStub
from penstock.v1.status_pb2 import GetStatusRequest, Status, WatchStatusRequest, WatchStatusResponse
from penstock.v1.status_pb2_grpc import StatusServiceStub


class Stream(StreamResults):
    """One answer. `async for` yields its chunks; the call begins with the first of them and runs once.

    A chunk counts as taken, and is acknowledged, when the loop comes back for the next one. Leaving the loop
    in any way cancels the call, as does `async with stream` at its end. Use it from one event loop.
    """

    def __init__(self, open_call: Callable[[], AioCall], start: Start) -> None:
        super().__init__()
        self._open_call = open_call
        self._start = start
        self._call: Duplex | None = None
        self._cancel_reason: str | None = None

    def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        return self._chunks()

    async def events(self) -> AsyncGenerator[GenerateResponse, None]:
        """Every message: accepted, progress, chunk, notice, finished.

        Raises PenstockError when the call fails or the server breaks the contract, RuntimeError when it
        was begun before.
        """
        if self._call is not None:
            raise RuntimeError("a stream can be read once")
        receiver = self._receiver
        call = self._call = Duplex(self._open_call())
        try:
            with _translated(self._start.request_id):
                await call.write(GenerateRequest(start=self._start))
            while (message := await self._read(call)) is not None:
                receiver.receive(message)
                with _translated(self._request_id):
                    await self._answer(call, message)
                yield message
                ack = receiver.take()
                if ack is not None:
                    with _translated(self._request_id):
                        await call.write(GenerateRequest(ack=Ack(seq=ack)))
            receiver.end()
        finally:
            call.cancel()

    async def cancel(self, reason: str = "") -> None:
        """Asks the server to end the stream; go on reading until `finished`, whose reason is CANCELLED.

        Sent once `accepted` came. Does nothing after `finished` and when called again.
        """
        if self._cancel_reason is not None or self.done:
            return
        self._cancel_reason = reason
        if self._receiver.accepted is not None and self._call is not None:
            with _translated(self._request_id):
                await self._send_cancel(self._call)

    async def aclose(self) -> None:
        """Cancels the call if it runs. A loop that reads it elsewhere gets CancelledStreamError."""
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def _request_id(self) -> str:
        accepted = self._receiver.accepted
        return accepted.request_id if accepted is not None else self._start.request_id

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.HasField("chunk"):
                    yield event.chunk

    async def _read(self, call: Duplex) -> GenerateResponse | None:
        with _translated(self._request_id):
            return await call.read()

    async def _answer(self, call: Duplex, message: GenerateResponse) -> None:
        if message.HasField("finished"):
            await call.half_close()
        elif message.HasField("accepted") and self._cancel_reason is not None:
            await self._send_cancel(call)

    async def _send_cancel(self, call: Duplex) -> None:
        self._receiver.stop_sending()
        await call.write(GenerateRequest(cancel=Cancel(reason=self._cancel_reason or "")))


class Client:
    """A Penstock server, for asyncio. Use it from one event loop; any number of streams may run at once.

    target: a gRPC target such as host:port; None: PENSTOCK_TARGET of the environment, else 127.0.0.1:50051.
    channel: a grpc.aio channel in place of a new plaintext one, such as for TLS; it stays the caller's.
    options: gRPC channel options on top of the client's own. The channel is made with the first call.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.aio.Channel | None = None,
        options: ChannelOptions | None = None,
    ) -> None:
        self.target = target or default_target()
        self._options = channel_options(options)
        self._given_channel = channel
        self._own_channel: grpc.aio.Channel | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels this client's calls and closes its channel; a channel that was given is left open."""
        self._closed = True
        if self._own_channel is not None:
            await self._own_channel.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """A stream of chunks for text, a conversation or token ids; see GenerateOptions.

        Nothing is sent before the stream is read. Raises InvalidRequestError for values that cannot be sent.
        """
        start = build_start(prompt, options)

        def open_call() -> AioCall:
            stub = GenerationServiceStub(self._channel())
            return stub.Generate(timeout=options.get("timeout_s"), metadata=options.get("metadata"))

        return Stream(open_call, start)

    async def complete(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> str:
        """The whole text of generate()."""
        stream = self.generate(prompt, **options)
        async for _ in stream:
            pass
        return stream.text

    async def count_tokens(
        self,
        prompt: str | Sequence[Mapping[str, str]] | Sequence[ChatMessage],
        *,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Tokens of the input as generate() would send it to the model, special tokens included."""
        request = build_count(prompt, model)
        with _translated():
            response = await GenerationServiceStub(self._channel()).CountTokens(request, timeout=timeout_s)
            return response.prompt_tokens

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """The server's models."""
        with _translated():
            response = await ModelServiceStub(self._channel()).ListModels(
                ListModelsRequest(), timeout=timeout_s
            )
            return list(response.models)

    async def status(self, *, timeout_s: float | None = None) -> Status:
        """What the server is doing now."""
        with _translated():
            response = await StatusServiceStub(self._channel()).GetStatus(
                GetStatusRequest(), timeout=timeout_s
            )
            return response.status

    async def watch_status(self, *, interval_ms: int | None = None) -> AsyncIterator[Status]:
        """The status at once and then every interval_ms, 100 to 60000 (None: the server's default)."""
        call = StatusServiceStub(self._channel()).WatchStatus(
            WatchStatusRequest(interval_ms=interval_ms or 0)
        )
        try:
            while True:
                with _translated():
                    message = await call.read()
                if not isinstance(message, WatchStatusResponse):
                    return
                yield message.status
        finally:
            call.cancel()

    def _channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._given_channel is not None:
            return self._given_channel
        if self._own_channel is None:  # not before: a channel belongs to the running loop
            self._own_channel = grpc.aio.insecure_channel(self.target, options=self._options)
        return self._own_channel


@contextmanager
def _translated(request_id: str = "") -> Iterator[None]:
    """Turns failures of grpc.aio into PenstockError; CancelledError passes when the task is cancelled."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, request_id) from error
    except asyncio.CancelledError:
        # grpc.aio raises this also where the call was cancelled and the task was not.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CancelledStreamError("the call was closed while it was in use", request_id=request_id) from None
