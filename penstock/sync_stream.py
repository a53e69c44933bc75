"""One answer for plain programs, over as many calls as it takes."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self

import grpc

from penstock.errors import CancelledStreamError, PenstockError, from_rpc_error
from penstock.prompt_parts import LongPrompt
from penstock.receiver import Receiver, StreamResults
from penstock.retry import Attempts, Retry
from penstock.tracing import ClientSpan
from penstock.v1.generation_pb2 import Ack, Cancel, Chunk, GenerateRequest, GenerateResponse, Start


class SyncCall(Protocol):
    """The part of a grpc call that a stream uses."""

    def __next__(self) -> GenerateResponse: ...
    def cancel(self) -> object: ...


class SyncLink(Protocol):
    """How a stream reaches its server."""

    def open(self, requests: Iterator[GenerateRequest], timeout_s: float | None) -> SyncCall:
        """A new Generate call. RuntimeError when the client is closed."""

    def pause(self, retry: Retry, stopped: threading.Event) -> None:
        """Waits as `retry` says, or until `stopped`: first for the time, then for a server that is ready."""


class _Call:
    """One Generate call and what it sends, in order."""

    def __init__(self, link: SyncLink, start: Start, timeout_s: float | None) -> None:
        self._stopped = False
        self._outgoing: SimpleQueue[Sequence[GenerateRequest] | None] = SimpleQueue()
        self.send(GenerateRequest(start=start))
        self._call = link.open(self._requests(), timeout_s)

    def send(self, *requests: GenerateRequest) -> None:
        """Sends messages, when those before are on their way."""
        self._outgoing.put(requests)

    def send_last(self, request: GenerateRequest) -> None:
        """Sends a message in place of what is left of the messages under way."""
        self._stopped = True
        self.send(request)

    def half_close(self) -> None:
        """Sends nothing more; ends the thread of grpc that waits here."""
        self._stopped = True
        self._outgoing.put(None)

    def read(self) -> GenerateResponse | None:
        """The next message; None when the server ended the call with OK. RpcError for any other status."""
        return next(self._call, None)

    def cancel(self) -> None:
        """Cancels the call."""
        self._call.cancel()
        self.half_close()

    def _requests(self) -> Iterator[GenerateRequest]:
        while (batch := self._outgoing.get()) is not None:
            for index, request in enumerate(batch):
                if index and self._stopped:
                    break
                yield request


class SyncStream(StreamResults):
    """One answer. `for` yields its chunks; the call begins with the first of them and runs once.

    A chunk counts as taken, and is acknowledged, when the loop comes back for the next one. Leaving the loop
    in any way cancels the call, as does `with stream` at its end. One thread reads; any may cancel or close.
    """

    def __init__(
        self,
        link: SyncLink,
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
        self._call: _Call | None = None
        self._failure: PenstockError | None = None
        self._begun = False
        self._closed = False
        self._cancel: GenerateRequest | None = None
        self._changing = threading.Lock()  # a cancel goes either to the call that is or to the next one
        self._stopped = threading.Event()

    def __iter__(self) -> Generator[Chunk, None, None]:
        with closing(self.events()) as events:
            for event in events:
                if event.HasField("chunk"):
                    yield event.chunk

    def events(self) -> Generator[GenerateResponse, None, None]:
        """Every message: accepted, progress, chunk, notice, finished; `accepted` again after a resume.

        Raises PenstockError when the call fails or the server breaks the contract, RuntimeError when it
        was begun before.
        """
        if self._begun:
            raise RuntimeError("a stream can be read once")
        self._begun = True
        with self._span:
            try:
                call = self._open()
                while True:
                    call, messages = self._next(call)
                    if not messages:
                        return
                    for message in messages:
                        yield message
                        ack = self._receiver.take()
                        if ack is not None:
                            call.send(GenerateRequest(ack=Ack(seq=ack)))
            finally:
                self._end_call()

    def cancel(self, reason: str = "") -> None:
        """Asks the server to end the stream; go on reading until `finished`, whose reason is CANCELLED.

        Does nothing after `finished` and when called again. A stream whose call is lost is not resumed any
        more: reading it raises how the call was lost.
        """
        with self._changing:
            if self._cancel is not None or self.done:
                return
            self._cancel = GenerateRequest(cancel=Cancel(reason=reason))
            self._attempts.stop()
            self._receiver.stop_sending()
            if self._call is not None:
                self._call.send_last(self._cancel)
        self._stopped.set()

    def close(self) -> None:
        """Cancels the call if it runs. A loop that reads it elsewhere gets CancelledStreamError."""
        with self._changing:
            self._closed = True
            self._attempts.stop()
            if self._call is not None:
                self._call.cancel()
        self._stopped.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _request_id(self) -> str:
        accepted = self._receiver.accepted
        return accepted.request_id if accepted is not None else self._attempts.request_id

    def _open(self) -> _Call:
        start, timeout_s = self._attempts.begin()
        with self._changing:
            if self._closed:
                raise CancelledStreamError("the stream is closed", request_id=self._request_id)
            call = self._call = _Call(self._link, start, timeout_s)
            if self._cancel is not None:
                call.send_last(self._cancel)
        return call

    def _next(self, call: _Call) -> tuple[_Call, tuple[GenerateResponse, ...]]:
        """The next messages for the application and the call to go on with; none at the end."""
        while True:
            if self._failure is not None:
                raise self._failure
            try:
                with translated(self._request_id):
                    message = call.read()
                if message is None:
                    self._receiver.end()
                    return call, ()
                messages = self._receiver.receive(message)
                self._answer(call, message)
            except PenstockError as error:
                if self._attempts.is_whole(error):
                    return call, ()
                retry = self._attempts.after(error)
                if retry is None:
                    messages, self._failure = self._receiver.release(), error
                else:
                    call = self._reopen(retry)
                    continue
            if messages:
                return call, messages

    def _reopen(self, retry: Retry) -> _Call:
        """The call that continues the stream. Raises PenstockError when it was given up meanwhile."""
        self._end_call()
        self._span.retrying(retry)
        if self._on_retry is not None:
            self._on_retry(retry)
        self._link.pause(retry, self._stopped)
        if self._cancel is not None:
            raise retry.error
        self._receiver.restart()
        try:
            return self._open()
        except RuntimeError as error:
            raise CancelledStreamError(str(error), request_id=self._request_id) from None

    def _answer(self, call: _Call, message: GenerateResponse) -> None:
        if message.HasField("finished"):
            call.half_close()
        elif message.HasField("accepted") and self._long_prompt is not None:
            parts = self._long_prompt.messages(message.accepted.prompt_part_bytes)
            with self._changing:
                if self._cancel is None:
                    call.send(*parts)

    def _end_call(self) -> None:
        if self._call is not None:
            self._call.cancel()


@contextmanager
def translated(request_id: str = "") -> Iterator[None]:
    """Turns failures of grpc into PenstockError."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, request_id) from error
