"""The client for threads and plain programs."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self, Unpack

import grpc

from penstock.channel import ChannelOptions, channel_options, default_target
from penstock.errors import from_rpc_error
from penstock.receiver import StreamResults
from penstock.request import GenerateOptions, Prompt, build_count, build_start
from penstock.v1.generation_pb2 import Ack, Cancel, Chunk, GenerateRequest, GenerateResponse, Start
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from penstock.v1.input_pb2 import ChatMessage
from penstock.v1.model_pb2 import ListModelsRequest, Model
from penstock.v1.model_pb2_grpc import ModelServiceStub
from penstock.v1.status_pb2 import GetStatusRequest, Status, WatchStatusRequest
from penstock.v1.status_pb2_grpc import StatusServiceStub


class _Call(Protocol):
    """The part of a grpc call that a stream uses."""

    def __iter__(self) -> Iterator[GenerateResponse]: ...
    def cancel(self) -> object: ...


class SyncStream(StreamResults):
    """One answer. `for` yields its chunks; the call begins with the first of them and runs once.

    A chunk counts as taken, and is acknowledged, when the loop comes back for the next one. Leaving the loop
    in any way cancels the call, as does `with stream` at its end. One thread reads; any may cancel or close.
    """

    def __init__(self, open_call: Callable[[Iterator[GenerateRequest]], _Call], start: Start) -> None:
        super().__init__()
        self._open_call = open_call
        self._start = start
        self._call: _Call | None = None
        self._cancelling = False
        # What to send, in order; None closes the sending side and ends the thread of grpc that waits here.
        self._outgoing: SimpleQueue[GenerateRequest | None] = SimpleQueue()
        self._outgoing.put(GenerateRequest(start=start))

    def __iter__(self) -> Generator[Chunk, None, None]:
        with closing(self.events()) as events:
            for event in events:
                if event.HasField("chunk"):
                    yield event.chunk

    def events(self) -> Generator[GenerateResponse, None, None]:
        """Every message: accepted, progress, chunk, notice, finished.

        Raises PenstockError when the call fails or the server breaks the contract, RuntimeError when it
        was begun before.
        """
        if self._call is not None:
            raise RuntimeError("a stream can be read once")
        receiver = self._receiver
        call = self._call = self._open_call(iter(self._outgoing.get, None))
        try:
            for message in call:
                receiver.receive(message)
                if receiver.finished is not None:
                    self._outgoing.put(None)
                yield message
                ack = receiver.take()
                if ack is not None:
                    self._outgoing.put(GenerateRequest(ack=Ack(seq=ack)))
            receiver.end()
        except grpc.RpcError as error:
            accepted = receiver.accepted
            raise from_rpc_error(
                error, accepted.request_id if accepted else self._start.request_id
            ) from error
        finally:
            call.cancel()
            self._outgoing.put(None)

    def cancel(self, reason: str = "") -> None:
        """Asks the server to end the stream; go on reading until `finished`, whose reason is CANCELLED.

        Does nothing after `finished` and when called again.
        """
        if self._cancelling or self.done:
            return
        self._cancelling = True
        self._receiver.stop_sending()
        self._outgoing.put(GenerateRequest(cancel=Cancel(reason=reason)))

    def close(self) -> None:
        """Cancels the call if it runs. A loop that reads it elsewhere gets CancelledStreamError."""
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SyncClient:
    """A Penstock server, for programs without asyncio. Threads may share it; many streams may run at once.

    target: a gRPC target such as host:port; None: PENSTOCK_TARGET of the environment, else 127.0.0.1:50051.
    channel: a grpc channel in place of a new plaintext one, such as for TLS; it stays the caller's.
    options: gRPC channel options on top of the client's own.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.Channel | None = None,
        options: ChannelOptions | None = None,
    ) -> None:
        self.target = target or default_target()
        self._owns_channel = channel is None
        self._open_channel = channel or grpc.insecure_channel(self.target, options=channel_options(options))
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancels this client's calls and closes its channel; a channel that was given is left open."""
        self._closed = True
        if self._owns_channel:
            self._open_channel.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> SyncStream:
        """A stream of chunks for text, a conversation or token ids; see GenerateOptions.

        Nothing is sent before the stream is read. Raises InvalidRequestError for values that cannot be sent.
        """
        start = build_start(prompt, options)

        def open_call(requests: Iterator[GenerateRequest]) -> _Call:
            stub = GenerationServiceStub(self._channel())
            metadata = options.get("metadata")
            return stub.Generate(
                requests,
                timeout=options.get("timeout_s"),
                metadata=tuple(metadata) if metadata is not None else None,
            )

        return SyncStream(open_call, start)

    def complete(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> str:
        """The whole text of generate()."""
        stream = self.generate(prompt, **options)
        for _ in stream:
            pass
        return stream.text

    def count_tokens(
        self,
        prompt: str | Sequence[Mapping[str, str]] | Sequence[ChatMessage],
        *,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Tokens of the input as generate() would send it to the model, special tokens included."""
        request = build_count(prompt, model)
        with _translated():
            return (
                GenerationServiceStub(self._channel()).CountTokens(request, timeout=timeout_s).prompt_tokens
            )

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """The server's models."""
        with _translated():
            return list(
                ModelServiceStub(self._channel()).ListModels(ListModelsRequest(), timeout=timeout_s).models
            )

    def status(self, *, timeout_s: float | None = None) -> Status:
        """What the server is doing now."""
        with _translated():
            return StatusServiceStub(self._channel()).GetStatus(GetStatusRequest(), timeout=timeout_s).status

    def watch_status(self, *, interval_ms: int | None = None) -> Iterator[Status]:
        """The status at once and then every interval_ms, 100 to 60000 (None: the server's default)."""
        call = StatusServiceStub(self._channel()).WatchStatus(
            WatchStatusRequest(interval_ms=interval_ms or 0)
        )
        try:
            with _translated():
                for message in call:
                    yield message.status
        finally:
            call.cancel()

    def _channel(self) -> grpc.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        return self._open_channel


@contextmanager
def _translated() -> Iterator[None]:
    """Turns failures of grpc into PenstockError."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
