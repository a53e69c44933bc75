"""The client for threads and plain programs."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, Unpack

import grpc

from penstock.channel import ChannelOptions, channel_options, default_target
from penstock.prompt_parts import part_bytes, take_long_prompt
from penstock.receiver import Receiver
from penstock.request import GenerateOptions, Prompt, build_count, build_start, retries_of
from penstock.retry import READY_POLL_S, Attempts, Retry
from penstock.sync_stream import SyncCall, SyncStream, translated
from penstock.tenant import Metadata, Pairs, tenant_metadata, with_tenant
from penstock.tracing import ClientSpan, with_trace
from penstock.v1.generation_pb2 import GenerateRequest
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from penstock.v1.input_pb2 import ChatMessage
from penstock.v1.model_pb2 import (
    ListModelsRequest,
    LoadModelRequest,
    LoadModelResponse,
    Model,
    ModelState,
    UnloadModelRequest,
)
from penstock.v1.model_pb2_grpc import ModelServiceStub
from penstock.v1.status_pb2 import GetStatusRequest, Status, WatchStatusRequest
from penstock.v1.status_pb2_grpc import StatusServiceStub

# So that a stream that is closed while it waits for a server ends soon.
_READY_CALL_S = 1.0


class SyncClient:
    """A Penstock server, for programs without asyncio. Threads may share it; many streams may run at once.

    target: a gRPC target such as host:port; None: PENSTOCK_TARGET of the environment, else 127.0.0.1:50051.
    channel: a grpc channel in place of a new plaintext one, such as for TLS; it stays the caller's.
    options: gRPC channel options on top of the client's own. request_chunk_bytes: a longer text prompt is
    sent in pieces of this size (UTF-8), 1024 to 67108864; None: STREAM_REQUEST_CHUNK_SIZE of the
    environment, else 32768. tenant: whom the calls count for, sent as metadata x-tenant-id with each of
    them. InvalidRequestError for another value.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        channel: grpc.Channel | None = None,
        options: ChannelOptions | None = None,
        request_chunk_bytes: int | None = None,
        tenant: str | None = None,
        _clock: Callable[[], float] = time.monotonic,
        _random: Callable[[], float] = random.random,
        _sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.target = target or default_target()
        self._part_bytes = part_bytes(request_chunk_bytes)
        self._tenant = tenant_metadata(tenant)
        self._clock, self._random, self._sleep = _clock, _random, _sleep
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
        retries = retries_of(options)
        receiver = Receiver(hold_tail=retries > 0)
        attempts = Attempts(
            start,
            receiver,
            retries=retries,
            timeout_s=options.get("timeout_s"),
            clock=self._clock,
            random=self._random,
        )
        long_prompt = take_long_prompt(start, self._part_bytes)
        span = ClientSpan(start, receiver)
        link = _Link(self._channel, self._tenant, options.get("metadata"), span, self._sleep)
        return SyncStream(link, receiver, attempts, span, long_prompt, options.get("on_retry"))

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
        with translated():
            response = GenerationServiceStub(self._channel()).CountTokens(
                request, timeout=timeout_s, metadata=with_trace(self._tenant)
            )
            return response.prompt_tokens

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """The server's models."""
        with translated():
            response = ModelServiceStub(self._channel()).ListModels(
                ListModelsRequest(), timeout=timeout_s, metadata=with_trace(self._tenant)
            )
            return list(response.models)

    def load_model(self, source: str, *, aliases: Sequence[str] = ()) -> Iterator[LoadModelResponse]:
        """Has the server load a model: how far it is, and last the model.

        source: a directory on the server's machine, a hub name, or "embedded". The server goes on loading
        when this is not read to the end.
        """
        request = LoadModelRequest(source=source, aliases=aliases)
        call = ModelServiceStub(self._channel()).LoadModel(request, metadata=with_trace(self._tenant))
        try:
            with translated():
                yield from call
        finally:
            call.cancel()

    def unload_model(self, name: str, *, now: bool = False, timeout_s: float | None = None) -> int:
        """Has the server unload a model once its streams have ended, or end them with now.

        Returns how many streams it had. Unloading goes on after timeout_s.
        """
        with translated():
            response = ModelServiceStub(self._channel()).UnloadModel(
                UnloadModelRequest(name=name, now=now), timeout=timeout_s, metadata=with_trace(self._tenant)
            )
            return response.streams

    def status(self, *, include_streams: bool = False, timeout_s: float | None = None) -> Status:
        """What the server is doing now; with every active stream when include_streams is set."""
        request = GetStatusRequest(include_streams=include_streams)
        with translated():
            response = StatusServiceStub(self._channel()).GetStatus(
                request, timeout=timeout_s, metadata=with_trace(self._tenant)
            )
            return response.status

    def watch_status(
        self, *, interval_ms: int | None = None, include_streams: bool = False
    ) -> Iterator[Status]:
        """The status at once and then every interval_ms, 100 to 60000 (None: the server's default)."""
        call = StatusServiceStub(self._channel()).WatchStatus(
            WatchStatusRequest(interval_ms=interval_ms or 0, include_streams=include_streams),
            metadata=with_trace(self._tenant),
        )
        try:
            with translated():
                for message in call:
                    yield message.status
        finally:
            call.cancel()

    def _channel(self) -> grpc.Channel:
        if self._closed:
            raise RuntimeError("the client is closed")
        return self._open_channel


class _Link:
    """The way of one stream to the server."""

    def __init__(
        self,
        channel: Callable[[], grpc.Channel],
        tenant: Pairs,
        metadata: Metadata | None,
        span: ClientSpan,
        sleep: Callable[[float], object] | None,
    ) -> None:
        self._channel = channel
        self._tenant = tenant
        self._metadata = with_tenant(tenant, metadata)
        self._span = span
        self._sleep = sleep

    def open(self, requests: Iterator[GenerateRequest], timeout_s: float | None) -> SyncCall:
        stub = GenerationServiceStub(self._channel())
        return stub.Generate(requests, timeout=timeout_s, metadata=self._span.metadata(self._metadata))

    def pause(self, retry: Retry, stopped: threading.Event) -> None:
        sleep = self._sleep or stopped.wait
        sleep(retry.wait_s)
        until_s = time.monotonic() + retry.ready_s
        # Not channel_ready_future: it leaves a thread that fails when the channel is closed soon after.
        with suppress(RuntimeError):
            while not stopped.is_set() and (left_s := until_s - time.monotonic()) > 0:
                if self._model_is_ready(min(left_s, _READY_CALL_S)):
                    return
                sleep(READY_POLL_S)

    def _model_is_ready(self, timeout_s: float) -> bool:
        """Waits for a connection. True also when a server answers that it cannot say."""
        stub = ModelServiceStub(self._channel())
        try:
            response = stub.ListModels(
                ListModelsRequest(),
                wait_for_ready=True,
                timeout=timeout_s,
                metadata=self._span.metadata(self._tenant),
            )
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        return any(model.state == ModelState.MODEL_STATE_READY for model in response.models)
