"""A servicer that plays scripts of the contract's server side and records what the client did."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Never

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from penstock.v1.generation_pb2 import (
    Accepted,
    Chunk,
    CountTokensRequest,
    CountTokensResponse,
    Finished,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    Start,
    Usage,
)
from penstock.v1.generation_pb2_grpc import GenerationServiceServicer
from penstock.v1.model_pb2 import (
    GetModelRequest,
    GetModelResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    LoadProgress,
    Model,
    ModelState,
    UnloadModelRequest,
    UnloadModelResponse,
)
from penstock.v1.model_pb2_grpc import ModelServiceServicer
from penstock.v1.status_pb2 import (
    GetStatusRequest,
    GetStatusResponse,
    Status,
    StreamCounts,
    WatchStatusRequest,
    WatchStatusResponse,
    Worker,
    WorkerState,
)
from penstock.v1.status_pb2_grpc import StatusServiceServicer

MIB = 2**20
Context = grpc.aio.ServicerContext[Any, Any]


class Exchange:
    """One Generate call as a script sees it. `log` holds the names of all messages in order, both ways."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.received: list[GenerateRequest] = []
        self.log: list[str] = []
        self.half_closed = False
        self.cancelled = False
        self.ended = asyncio.Event()
        self._seq = 0

    @property
    def prompt(self) -> str:
        """The prompt as far as it has come, in `start` or in pieces."""
        parts = [request.prompt_part.text for request in self.received]
        return self.received[0].start.prompt + "".join(parts)

    @property
    def acks(self) -> list[int]:
        """The acknowledged seqs, in order of arrival."""
        return [request.ack.seq for request in self.received if request.HasField("ack")]

    async def read(self) -> GenerateRequest | None:
        """The client's next message; None when it has closed its sending side."""
        request = await self.context.read()
        if not isinstance(request, GenerateRequest):
            self.half_closed = True
            return None
        self.received.append(request)
        self.log.append(f"< {request.WhichOneof('message')}")
        return request

    async def read_prompt(self) -> None:
        """Reads the pieces of the prompt to the last one."""
        while (request := await self.read()) is not None and not request.prompt_part.last:
            assert request.HasField("prompt_part")

    async def read_all(self) -> None:
        """Reads until the client closes its sending side."""
        while await self.read() is not None:
            pass

    async def write(self, response: GenerateResponse) -> None:
        """Sends a message as it is."""
        self.log.append(f"> {response.WhichOneof('message')}")
        await self.context.write(response)

    async def accept(self, window: int = 4) -> None:
        """Reads `start` and answers `accepted`."""
        request = await self.read()
        assert request is not None
        request_id = request.start.request_id or "made-by-server"
        await self.write(
            GenerateResponse(accepted=Accepted(request_id=request_id, max_unacked_chunks=window))
        )

    async def chunk(self, text: str = "x") -> None:
        """Sends the next chunk, whatever the credit."""
        self._seq += 1
        chunk = Chunk(seq=self._seq, token_offset=self._seq - 1, token_ids=[self._seq], text=text)
        await self.write(GenerateResponse(chunk=chunk))

    async def chunks(self, count: int, window: int) -> None:
        """Sends chunks as a server that honours the window: reads when there is no credit."""
        for _ in range(count):
            while self._seq - max(self.acks, default=0) >= window:
                assert await self.read() is not None
            await self.chunk(f"{self._seq + 1} ")

    async def finish(self, reason: FinishReason.ValueType = FinishReason.FINISH_REASON_STOP) -> None:
        """Sends `finished` and reads to the end of the client's side."""
        usage = Usage(prompt_tokens=3, completion_tokens=self._seq)
        await self.write(GenerateResponse(finished=Finished(reason=reason, usage=usage)))
        await self.read_all()

    async def fail(self, code: grpc.StatusCode, message: str, *details: Message) -> Never:
        """Ends the call with a status and google.rpc details."""
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            status.details.add().Pack(detail)
        await self.context.abort_with_status(rpc_status.to_status(status))


Script = Callable[[Exchange], Awaitable[None]]


async def short_answer(exchange: Exchange) -> None:
    """Two chunks and a clean end."""
    await exchange.accept()
    await exchange.chunk("Once ")
    await exchange.chunk("more")
    await exchange.finish()


async def never_ending(exchange: Exchange) -> None:
    """Two chunks, then silence."""
    await exchange.accept()
    await exchange.chunk("Once ")
    await exchange.chunk("more")
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Cut:
    """Ends a call: at `at` and, for "chunk", once `tokens` of the output are sent in all."""

    tokens: int = 0
    at: Literal["start", "accepted", "chunk", "tail", "finished"] = "chunk"
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "Socket closed"
    details: Sequence[Message] = ()


class ResumableAnswer:
    """A script: one answer that keeps the contract of resume and whose calls end at one cut each.

    Output token n (from 1) has the id n and the text texts[n - 1]; `tail` is text held back to the end.
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        cuts: Iterable[Cut] = (),
        tail: str = "",
        per_chunk: int = 1,
        window: int = 4,
    ) -> None:
        self.cuts = deque(cuts)
        self.starts: list[Start] = []
        self.exchanges: list[Exchange] = []
        self.time_remaining_s: list[float | None] = []
        self._texts = texts
        self._tail = tail
        self._per_chunk = per_chunk
        self._window = window

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self._texts) + self._tail

    async def __call__(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.time_remaining_s.append(exchange.context.time_remaining())
        request = await exchange.read()
        assert request is not None
        start = request.start
        self.starts.append(start)
        cut = self.cuts.popleft() if self.cuts else Cut(-1)
        await self._cut(exchange, cut, "start")
        held = list(start.resume.token_ids)
        if held != list(range(1, len(held) + 1)):
            await exchange.fail(grpc.StatusCode.INVALID_ARGUMENT, "start.resume.token_ids: not this answer")
        await exchange.write(
            GenerateResponse(
                accepted=Accepted(
                    request_id=start.request_id or f"made-{len(self.starts)}",
                    model=start.model or "tiny",
                    seed=start.sampling.seed if start.sampling.HasField("seed") else 1000 + len(self.starts),
                    max_unacked_chunks=self._window,
                    model_fingerprint="print",
                )
            )
        )
        await self._cut(exchange, cut, "accepted")
        if start.HasField("prompt_parts"):
            await exchange.read_prompt()
        await self._chunks(exchange, cut, len(held), start.resume.last_seq)
        usage = Usage(prompt_tokens=3, completion_tokens=len(self._texts))
        await exchange.write(GenerateResponse(finished=Finished(usage=usage)))
        await self._cut(exchange, cut, "finished")
        await exchange.read_all()

    async def _chunks(self, exchange: Exchange, cut: Cut, token: int, seq: int) -> None:
        acked = seq
        while token < len(self._texts):
            await self._cut(exchange, cut, "chunk", token)
            while seq - acked >= self._window:
                request = await exchange.read()
                assert request is not None
                assert acked < request.ack.seq <= seq
                acked = request.ack.seq
            end = min(token + self._per_chunk, len(self._texts))
            if token < cut.tokens < end:
                end = cut.tokens
            seq += 1
            ids, text = range(token + 1, end + 1), "".join(self._texts[token:end])
            await exchange.write(
                GenerateResponse(chunk=Chunk(seq=seq, token_offset=token, token_ids=ids, text=text))
            )
            token = end
        await self._cut(exchange, cut, "chunk", token)
        if self._tail:
            await exchange.write(
                GenerateResponse(chunk=Chunk(seq=seq + 1, token_offset=token, text=self._tail))
            )
            await self._cut(exchange, cut, "tail")

    async def _cut(self, exchange: Exchange, cut: Cut, at: str, tokens: int = 0) -> None:
        if cut.at == at and cut.tokens == tokens:
            await exchange.fail(cut.code, cut.message, *cut.details)


class ScriptedServer(GenerationServiceServicer, ModelServiceServicer, StatusServiceServicer):
    """Plays `script` for each Generate call; the other calls answer with fixed messages."""

    def __init__(self) -> None:
        self.script: Script = short_answer
        self.exchanges: asyncio.Queue[Exchange] = asyncio.Queue()
        self.loading = 0  # times that ListModels shows no model yet; -1: it never answers
        self.models_asked = asyncio.Event()
        self.counted: list[CountTokensRequest] = []
        self.loads: list[LoadModelRequest] = []
        self.unloads: list[UnloadModelRequest] = []
        self.status_requests: list[GetStatusRequest | WatchStatusRequest] = []
        self.watchers_gone = asyncio.Event()
        self.status = Status(
            version="0.1.0",
            uptime_s=3725,
            streams=StreamCounts(active=3, max_active=64, queued=1, streaming=2),
            workers=[Worker(state=WorkerState.WORKER_STATE_READY, pid=42, cpu_blas="openblas")],
            models=[
                Model(name="tiny", state=ModelState.MODEL_STATE_READY, parameters=1_200_000, is_default=True)
            ],
        )

    async def Generate(  # type: ignore[override]
        self, request_iterator: object, context: Context
    ) -> None:
        exchange = Exchange(context)
        self.exchanges.put_nowait(exchange)
        try:
            await self.script(exchange)
        except asyncio.CancelledError:
            exchange.cancelled = True
            raise
        finally:
            exchange.ended.set()

    async def CountTokens(self, request: CountTokensRequest, context: Context) -> CountTokensResponse:
        self.counted.append(request)
        if request.model not in ("", "tiny"):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {request.model}")
        return CountTokensResponse(prompt_tokens=7, model="tiny")

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        self.models_asked.set()
        if self.loading < 0:
            await asyncio.Event().wait()
        if self.loading:
            self.loading -= 1
            return ListModelsResponse()
        return ListModelsResponse(models=self.status.models)

    async def GetModel(self, request: GetModelRequest, context: Context) -> GetModelResponse:
        return GetModelResponse(model=self.status.models[0])

    async def LoadModel(
        self, request: LoadModelRequest, context: Context
    ) -> AsyncIterator[LoadModelResponse]:
        self.loads.append(request)
        if request.source != "./tiny":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no such model")
        for stage, done, total in (
            ("weights", 0, 3 * 2**20),
            ("weights", 3 * 2**20, 3 * 2**20),
            ("warm-up", 0, 0),
        ):
            progress = LoadProgress(stage=stage, done_bytes=done, total_bytes=total)
            yield LoadModelResponse(progress=progress)
        yield LoadModelResponse(model=self.status.models[0])

    async def UnloadModel(self, request: UnloadModelRequest, context: Context) -> UnloadModelResponse:
        self.unloads.append(request)
        if request.name != "tiny":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {request.name}")
        return UnloadModelResponse(streams=2)

    async def GetStatus(self, request: GetStatusRequest, context: Context) -> GetStatusResponse:
        self.status_requests.append(request)
        return GetStatusResponse(status=self.status)

    async def WatchStatus(
        self, request: WatchStatusRequest, context: Context
    ) -> AsyncIterator[WatchStatusResponse]:
        self.status_requests.append(request)
        try:
            while True:
                yield WatchStatusResponse(status=self.status)
        finally:
            self.watchers_gone.set()
