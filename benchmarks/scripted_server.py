"""A gRPC server without a model, for measuring what a message costs.

Usage: python -m benchmarks.scripted_server full|bare. `full` is the servicer on a scripted engine; `bare`
is the same server with a handler that only writes chunks. Prints its address; runs until stdin ends.
"""

import asyncio
import sys
from itertools import islice
from typing import Any

import grpc
import uvloop

from config import load
from engine.contract import Engine
from engine.scripted import ScriptedEngine, counting_script
from penstock.v1 import generation_pb2 as pb
from service.assembly import configure_logging, server_options, stream_options
from service.generation import GenerationServicer
from service.options import ServerOptions, StreamOptions
from service.server import Server

MAX_STREAMS = 256
_CONTEXT_TOKENS = 1 << 20
_FLAGS = {
    "server": {"port": 0},
    "stream_registry": {"max_active_streams": MAX_STREAMS},
    "logging": {"level": "warning"},
}

Context = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


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


class BareServer(Server):
    """The server with everything around the handler: the same options, health, status and reflection."""

    def __init__(self, engine: Engine, server: ServerOptions, streams: StreamOptions) -> None:
        super().__init__(engine, server, streams, version="bare")
        self._generation = BareServicer(engine, self._registry, streams)


def counted_chunks(tokens: int) -> tuple[pb.GenerateResponse, ...]:
    """The chunks that the full servicer sends for engine.scripted.counting_script, one token each."""
    return tuple(
        pb.GenerateResponse(chunk=pb.Chunk(seq=n, token_offset=n - 1, token_ids=[n], text=f" {n}"))
        for n in range(1, tokens + 1)
    )


async def serve(kind: str) -> None:
    settings = load(None, None, {}, _FLAGS).settings
    configure_logging(settings.logging)
    engine = ScriptedEngine(
        counting_script,
        step_s=0,
        max_batch_rows=MAX_STREAMS,
        context_tokens=_CONTEXT_TOKENS,
        default_max_tokens=1,
        vocab_size=_CONTEXT_TOKENS,
    )
    options = server_options(settings), stream_options(settings)
    server = BareServer(engine, *options) if kind == "bare" else Server(engine, *options, version="full")
    try:
        address = await server.listen()
        await server.start_engine()
        print(address, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await server.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1]))
