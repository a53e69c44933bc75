"""One grpc.aio Generate call with writes and reads that never hide the server's status."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import grpc

from penstock.v1.generation_pb2 import GenerateRequest, GenerateResponse

AioCall = grpc.aio.StreamStreamCall[GenerateRequest, GenerateResponse]

# grpc.aio sets INTERNAL with these details when a write meets the end of the call, in place of the server's
# status (github.com/grpc/grpc issue 36066). The status itself arrives before or soon after.
_WRITE_FAILED = "Internal error from Core"
_STATUS_WAIT_S = 1.0


class Duplex:
    """Owns a call: whoever makes a Duplex calls cancel() in the end, which does nothing to an ended call."""

    def __init__(self, call: AioCall) -> None:
        self._call = call
        self._responses = aiter(call)
        self._writing = asyncio.Lock()  # gRPC takes one write at a time
        self._status: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note_status)

    async def write(self, request: GenerateRequest) -> bool:
        """Sends a message. False when the call has ended; read() then says how."""
        async with self._writing:
            try:
                await self._call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return False
            return True

    async def half_close(self) -> None:
        """Says that nothing more will be sent."""
        async with self._writing:
            try:
                await self._call.done_writing()
            except grpc.aio.BaseError:
                return  # the call ended first

    async def read(self) -> GenerateResponse | None:
        """The next message; None when the server ended the call with OK. AioRpcError for any other status."""
        try:
            # Not call.read(): after a failed write that raises at once and drops what is still to be read.
            return await anext(self._responses)
        except StopAsyncIteration:
            return None
        except grpc.aio.AioRpcError as error:
            status = await self._status_of_server(error)
            if status.code() is grpc.StatusCode.OK:
                return None
            raise status from None

    def cancel(self) -> None:
        """Cancels the call."""
        self._call.cancel()

    async def _status_of_server(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        if error.details() != _WRITE_FAILED:
            return error
        try:
            return await asyncio.wait_for(asyncio.shield(self._status), _STATUS_WAIT_S)
        except TimeoutError:
            return error

    def _note_status(self, call: AioCall) -> None:
        """Runs each time grpc.aio sets the call's status, which is twice when a write fails."""
        status = _without_waiting(_status(call))
        if status is not None and status.details() != _WRITE_FAILED and not self._status.done():
            self._status.set_result(status)


async def _status(call: AioCall) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(), trailing_metadata=await call.trailing_metadata(), details=await call.details()
    )


def _without_waiting(
    coroutine: Coroutine[Any, Any, grpc.aio.AioRpcError],
) -> grpc.aio.AioRpcError | None:
    """Runs a coroutine that has nothing to wait for; None when it would wait after all."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: grpc.aio.AioRpcError = done.value
        return result
    coroutine.close()
    return None
