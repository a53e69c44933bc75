"""A gRPC server without a model, for measuring everything around a model.

Usage: python -m benchmarks.scripted_server OPTIONS, with ScriptedOptions as JSON. Prints its address;
then answers every line with its Internals as JSON, until stdin ends. The line "trim" has its allocators
give back to the system what is free, where they can.
"""

import asyncio
import contextlib
import ctypes
import gc
import itertools
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import msgspec
import uvloop
from grpc_status import rpc_status

from benchmarks.timed import TimedEngine, TimedServicer, TimeSpent
from config import load
from engine.contract import Engine
from engine.model_host import ModelHost
from engine.requests import GenerationRequest
from engine.scripted import Script, ScriptedEngine, counting_script
from flowcontrol.reasons import Reason
from penstock.v1 import generation_pb2 as pb
from service.assembly import configure_logging
from service.assembly_options import service_options
from service.errors import ServiceError
from service.generation import Context, GenerationServicer
from service.server import Server

_CONTEXT_TOKENS = 1 << 20


class ScriptedOptions(msgspec.Struct, frozen=True):
    """kind: `full` is the servicer on a scripted engine; `timed` the same with its own time measured;
    `bare` the same server with a handler that only writes chunks; `refusing` with one that only refuses.

    flags: options of the server, as the command line would give them. text_bytes: length of each token's
    text, 0 for a number. steps_per_turn, step_s: how fast the engine is, as in ScriptedEngine. telemetry:
    whether it is observed, as by default; not where something else is measured.
    """

    kind: Literal["full", "timed", "bare", "refusing"] = "full"
    max_streams: int = 256
    stream_flags: dict[str, Any] = {}
    server_flags: dict[str, Any] = {}
    text_bytes: int = 0
    steps_per_turn: int = 1
    step_s: float = 0.0
    telemetry: bool = False

    def encoded(self) -> str:
        return msgspec.json.encode(self).decode()


class Internals(msgspec.Struct, frozen=True):
    """What only the process itself can tell. own_us: microseconds of our code for each chunk written since
    the last question, when it is timed. wall_us: from its first token's arrival until it was written."""

    gc_runs: int
    blocks: int
    own_us: list[float]
    wall_us: list[float]


class BareServicer(GenerationServicer):
    """Answers with chunks that were made before: no engine, no credits, no state."""

    _chunks: tuple[pb.GenerateResponse, ...] = ()

    async def Generate(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        request = await context.read()
        assert isinstance(request, pb.GenerateRequest)
        tokens = request.start.stopping.max_tokens
        if len(self._chunks) < tokens:
            self._chunks = counted_chunks(tokens)
        await context.write(pb.GenerateResponse(accepted=pb.Accepted(max_tokens_per_chunk=1, seed=1)))
        for chunk in islice(self._chunks, tokens):
            await context.write(chunk)
        finished = pb.Finished(reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(completion_tokens=tokens))
        await context.write(pb.GenerateResponse(finished=finished))


class RefusingServicer(GenerationServicer):
    """Refuses every stream with a status that was made before: no admission, no state."""

    _status = rpc_status.to_status(ServiceError(Reason.QUEUE_FULL, "the queue is full").to_status(""))

    async def Generate(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        await context.read()
        await context.abort_with_status(self._status)


class BenchmarkServer(Server):
    """The server with everything around the handler: the same options, health, status and reflection."""

    def __init__(self, engine: Engine, options: ScriptedOptions, spent: TimeSpent) -> None:
        flags = {
            "server": {"port": 0} | options.server_flags,
            "stream_registry": {"max_active_streams": options.max_streams} | options.stream_flags,
            "admission": {"enabled": False},
            "logging": {"level": "error"},
            "telemetry": {"enabled": options.telemetry, "prometheus_port": 0},
            "slo": {"enabled": options.telemetry},
        }
        settings = load(None, None, {}, flags).settings
        configure_logging(settings.logging)
        told = service_options(settings)
        super().__init__(ModelHost.of(engine), told, version="benchmark")
        streams = told.stream
        if options.kind in ("bare", "refusing"):
            servicer = BareServicer if options.kind == "bare" else RefusingServicer
            self._generation = servicer(self._models, self._registry, self.admission, streams, self._pool)
        elif options.kind == "timed":
            timed_engine = TimedEngine(engine, spent)
            self._generation = TimedServicer(
                timed_engine, self._registry, self.admission, streams, self._pool, spent=spent
            )


def counted_chunks(tokens: int) -> tuple[pb.GenerateResponse, ...]:
    """The chunks that the full servicer sends for engine.scripted.counting_script, one token each."""
    return tuple(
        pb.GenerateResponse(chunk=pb.Chunk(seq=n, token_offset=n - 1, token_ids=[n], text=f" {n}"))
        for n in range(1, tokens + 1)
    )


def _script(text_bytes: int) -> Script:
    if not text_bytes:
        return counting_script
    text = "x" * text_bytes

    def long_texts(request: GenerationRequest) -> Iterator[tuple[int, str]]:
        return ((number, text) for number in itertools.count(1))

    return long_texts


async def serve(options: ScriptedOptions) -> None:
    engine = ScriptedEngine(
        _script(options.text_bytes),
        step_s=options.step_s,
        steps_per_turn=options.steps_per_turn,
        max_batch_rows=options.max_streams,
        context_tokens=_CONTEXT_TOKENS,
        default_max_tokens=1,
        vocab_size=_CONTEXT_TOKENS,
    )
    spent = TimeSpent()
    server = BenchmarkServer(engine, options, spent)
    try:
        address = await server.listen()
        await server.start_engine()
        print(address, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "trim":
                _trim()
            print(msgspec.json.encode(_internals(spent)).decode(), flush=True)
    finally:
        await server.stop()


def _trim() -> None:
    gc.collect()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # Another libc than glibc.
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _internals(spent: TimeSpent) -> Internals:
    runs = sum(generation["collections"] for generation in gc.get_stats())
    return Internals(runs, sys.getallocatedblocks(), *spent.take())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(msgspec.json.decode(sys.argv[1], type=ScriptedOptions)))
