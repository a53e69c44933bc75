"""One answer on asyncio, over as many calls as it takes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Protocol, Self

import grpc

from penstock.duplex import AioCall, Duplex
from penstock.errors import CancelledStreamError, PenstockError, from_rpc_error
from penstock.prompt_parts import LongPrompt
from penstock.receiver import Receiver, StreamResults
from penstock.retry import Attempts, Retry
from penstock.tracing import ClientSpan
from penstock.v1.generation_pb2 import Ack, Cancel, Chunk, GenerateRequest, GenerateResponse


class AioLink(Protocol):
    """How a stream reaches its server."""

    def open(self, timeout_s: float | None) -> AioCall:
        """A new Generate call. RuntimeError when the client is closed."""

    async def pause(self, retry: Retry) -> None:
        """Waits as `retry` says: first for the time, then for a server that is ready."""


class Stream(StreamResults):
    """One answer. `async for` yields its chunks; the call begins with the first of them and runs once.

    A chunk counts as taken, and is acknowledged, when the loop comes back for the next one. Leaving the loop
    in any way cancels the call, as does `async with stream` at its end. Use it from one event loop.
    """

    def __init__(
        self,
        link: AioLink,
        receiver: Receiver,
        attempts: Attempts,
        span: ClientSpan,
        long_prompt: LongPrompt | None = None,
        on_retry: Callable[[Retry], None] | None = None,
    ) -> None:
        super().__init__(receiver)
        self._link = link
        self._attempts = attempts
        self._span = span
        self._long_prompt = long_prompt
        self._on_retry = on_retry
        self._call: Duplex | None = None
        self._uploading: asyncio.Task[None] | None = None
        self._failure: PenstockError | None = None
        self._begun = False
        self._closed = False
        self._cancel_reason: str | None = None
        self._stopped = asyncio.Event()

    def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        return self._chunks()

    async def events(self) -> AsyncGenerator[GenerateResponse, None]:
        """Every message: accepted, progress, chunk, notice, finished; `accepted` again after a resume.

        Raises PenstockError when the call fails or the server breaks the contract, RuntimeError when it
        was begun before.
        """
        if self._begun:
            raise RuntimeError("a stream can be read once")
        self._begun = True
        with self._span:
            try:
                call = await self._open()
                while True:
                    call, messages = await self._next(call)
                    if not messages:
                        return
                    for message in messages:
                        yield message
                        ack = self._receiver.take()
                        if ack is not None:
                            with translated(self._request_id):
                                await call.write(GenerateRequest(ack=Ack(seq=ack)))
            finally:
                await self._end_call()

    async def cancel(self, reason: str = "") -> None:
        """Asks the server to end the stream; go on reading until `finished`, whose reason is CANCELLED.

        Sent once `accepted` came. Does nothing after `finished` and when called again. A stream whose call
        is lost is not resumed any more: reading it raises how the call was lost.
        """
        if self._cancel_reason is not None or self.done:
            return
        self._cancel_reason = reason
        self._attempts.stop()
        self._stopped.set()
        if self._receiver.accepted is not None and self._call is not None:
            with translated(self._request_id):
                await self._send_cancel(self._call)

    async def aclose(self) -> None:
        """Cancels the call if it runs. A loop that reads it elsewhere gets CancelledStreamError."""
        self._closed = True
        self._attempts.stop()
        self._stopped.set()
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
        return accepted.request_id if accepted is not None else self._attempts.request_id

    async def _chunks(self) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.HasField("chunk"):
                    yield event.chunk

    async def _open(self) -> Duplex:
        if self._closed:
            raise CancelledStreamError("the stream is closed", request_id=self._request_id)
        start, timeout_s = self._attempts.begin()
        call = self._call = Duplex(self._link.open(timeout_s))
        with translated(self._request_id):
            await call.write(GenerateRequest(start=start))
        return call

    async def _next(self, call: Duplex) -> tuple[Duplex, tuple[GenerateResponse, ...]]:
        """The next messages for the application and the call to go on with; none at the end."""
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                with translated(self._request_id):
                    message = await call.read()
                if message is None:
                    self._receiver.end()
                    return call, ()
                messages = self._receiver.receive(message)
                with translated(self._request_id):
                    await self._answer(call, message)
            except PenstockError as error:
                if self._attempts.is_whole(error):
                    return call, ()
                retry = self._attempts.after(error)
                if retry is None:
                    messages, self._failure = self._receiver.release(), error
                else:
                    call = await self._reopen(retry)
                    continue
            if messages:
                return call, messages

    async def _reopen(self, retry: Retry) -> Duplex:
        """The call that continues the stream. Raises PenstockError when it was given up meanwhile."""
        await self._end_call()
        self._span.retrying(retry)
        if self._on_retry is not None:
            self._on_retry(retry)
        await self._pause(retry)
        if self._cancel_reason is not None:
            raise retry.error
        self._receiver.restart()
        try:
            return await self._open()
        except RuntimeError as error:
            raise CancelledStreamError(str(error), request_id=self._request_id) from None

    async def _pause(self, retry: Retry) -> None:
        """Returns early when the stream is closed or cancelled."""
        waits = {
            asyncio.ensure_future(self._link.pause(retry)),
            asyncio.ensure_future(self._stopped.wait()),
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for wait in done:
            if not wait.cancelled():  # as grpc.aio does to the calls of a client that is closed
                wait.result()

    async def _answer(self, call: Duplex, message: GenerateResponse) -> None:
        if message.HasField("finished"):
            if self._uploading is None or self._uploading.done():
                await call.half_close()
        elif message.HasField("accepted"):
            if self._cancel_reason is not None:
                await self._send_cancel(call)
            elif self._long_prompt is not None:
                parts = self._long_prompt.messages(message.accepted.prompt_part_bytes)
                self._uploading = asyncio.create_task(self._upload(call, parts))

    async def _upload(self, call: Duplex, parts: Iterator[GenerateRequest]) -> None:
        """Sends the pieces of the prompt while the stream is read; read() tells when that fails."""
        for part in parts:
            if self._cancel_reason is not None or not await call.write(part):
                return

    async def _send_cancel(self, call: Duplex) -> None:
        self._receiver.stop_sending()
        await call.write(GenerateRequest(cancel=Cancel(reason=self._cancel_reason or "")))

    async def _end_call(self) -> None:
        if self._call is not None:
            self._call.cancel()
        uploading, self._uploading = self._uploading, None
        if uploading is not None:
            # Not cancelled: the end of the call ends its writes.
            await asyncio.gather(uploading, return_exceptions=True)


@contextmanager
def translated(request_id: str = "") -> Iterator[None]:
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
