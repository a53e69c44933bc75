"""The server as `penstock serve` runs it, which also tells how long its refusals took.

Usage: python -m benchmarks.admission_server. Prints its address; then answers every line with a Refusals as
JSON, until stdin ends.
"""

import asyncio
import contextlib
import signal
import sys
import time
from typing import Any

import msgspec
import uvloop
from grpc import StatusCode

from benchmarks.admission_load import LoopLag
from config import Settings, load
from penstock.v1 import generation_pb2 as pb
from service.assembly import configure_logging, model_host
from service.assembly_options import service_options
from service.generation import Context, GenerationServicer
from service.server import Server

_REFUSING = (StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE)


class Refusals(msgspec.Struct, frozen=True):
    """Since the last question. at_once_s: from the handler's start to the status, of the calls that were
    refused without waiting. waited_s: of those that had been accepted before. loop_lag_p95_s: by which the
    event loop came late.
    """

    at_once_s: list[float]
    waited_s: list[float]
    loop_lag_p95_s: float


class _TimedContext:
    """A context that notes when the call was accepted and when it was ended."""

    def __init__(self, inner: Context, refused: "_Noted") -> None:
        self._inner = inner
        self._refused = refused
        self._began_s = time.perf_counter()
        self._accepted = False
        self.read = inner.read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, message: pb.GenerateResponse) -> None:
        self._accepted = True
        await self._inner.write(message)

    async def abort_with_status(self, status: Any) -> None:
        if status.code in _REFUSING:
            times_s = self._refused.waited_s if self._accepted else self._refused.at_once_s
            times_s.append(time.perf_counter() - self._began_s)
        await self._inner.abort_with_status(status)


class _Noted:
    def __init__(self) -> None:
        self.at_once_s: list[float] = []
        self.waited_s: list[float] = []


class _TimedServicer(GenerationServicer):
    noted: _Noted

    async def Generate(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        timed: Any = _TimedContext(context, self.noted)
        await super().Generate(request_iterator, timed)


class _TimedServer(Server):
    def __init__(self, settings: Settings, noted: _Noted) -> None:
        models, told = model_host(settings), service_options(settings)
        super().__init__(models, told, version="benchmark")
        timed = _TimedServicer(models, self._registry, self.admission, told.stream, self._pool)
        timed.noted = noted
        self._generation = timed


async def serve() -> None:
    flags = {"server": {"port": 0}, "logging": {"level": "error"}}
    settings = load(None, None, {}, flags).settings
    configure_logging(settings.logging)
    noted, lag = _Noted(), LoopLag()
    server = _TimedServer(settings, noted)
    serving = asyncio.current_task()
    if serving is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    sampling = asyncio.create_task(lag.sample())
    try:
        address = await server.listen()
        await server.start_engine()
        print(address, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            refusals = Refusals(noted.at_once_s, noted.waited_s, lag.take_p95_s())
            noted.at_once_s, noted.waited_s = [], []
            print(msgspec.json.encode(refusals).decode(), flush=True)
    finally:
        sampling.cancel()
        await server.stop()


if __name__ == "__main__":
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        contextlib.suppress(asyncio.CancelledError),
    ):
        runner.run(serve())
