"""How a load asks each of the systems for a stream, and which of its messages hold tokens.

A stream is an async generator with one step for each message that holds tokens. While nobody asks for
the next step nothing is read and nothing is acked, as with a reader that is stuck.
"""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import cache
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tokenizers import Tokenizer

from benchmarks.jobs import GREEDY, Job, Sampling
from penstock.v1 import generation_pb2 as pb

_CONNECT_TIMEOUT_S = 30.0
# Channels of equal targets would share one connection.
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


class Counts:
    """What streams have received. tokens: as their ends say, so without those of a stream cut short.

    texts: pieces of the answer; None where nobody wants them, which spares parsing.
    """

    def __init__(self, *, texts: bool = False) -> None:
        self.texts: list[str] | None = [] if texts else None
        self.tokens = 0
        self.chunks = 0
        self.received_bytes = 0


class Wire(Protocol):
    """A connection to one system. Job: for its options; its prompts and target are not read."""

    def tokens(
        self, prompt: str, job: Job, counts: Counts, sampling: Sampling = GREEDY
    ) -> AsyncGenerator[None, None]: ...

    async def close(self) -> None: ...


def _first_byte(message: pb.GenerateResponse) -> int:
    """The tag that a message begins with; it names the member of the oneof."""
    return message.SerializeToString()[0]


class PenstockWire:
    """Parses no chunk but for its text: on a machine with few cores the client must cost less than what it
    measures."""

    _METHOD = "/penstock.v1.GenerationService/Generate"
    _CHUNK = _first_byte(pb.GenerateResponse(chunk=pb.Chunk(seq=1)))
    _ACCEPTED = _first_byte(pb.GenerateResponse(accepted=pb.Accepted(seed=1)))
    _FINISHED = _first_byte(pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_LENGTH)))

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._open: Callable[[], Any] = channel.stream_stream(
            self._METHOD, pb.GenerateRequest.SerializeToString
        )

    @classmethod
    async def connect(cls, target: str) -> "PenstockWire":
        return cls(await _ready_channel(target))

    async def close(self) -> None:
        await self._channel.close()

    async def tokens(
        self, prompt: str, job: Job, counts: Counts, sampling: Sampling = GREEDY
    ) -> AsyncGenerator[None, None]:
        """Acks at half of the window."""
        call = self._open()
        finished = False
        chunks = acked = half_window = 0
        chunk_tag, accepted_tag, finished_tag = self._CHUNK, self._ACCEPTED, self._FINISHED
        try:
            await call.write(pb.GenerateRequest(start=_start(prompt, job, sampling)))
            async for data in call:
                if data[0] == chunk_tag:
                    chunks += 1
                    counts.chunks += 1
                    counts.received_bytes += len(data)
                    if counts.texts is not None:
                        counts.texts.append(pb.GenerateResponse.FromString(data).chunk.text)
                    yield
                    if half_window and chunks - acked >= half_window:
                        acked = chunks
                        half_window = half_window if await _ack(call, acked) else 0
                elif data[0] == accepted_tag:
                    accepted = pb.GenerateResponse.FromString(data).accepted
                    half_window = (accepted.max_unacked_chunks + 1) // 2
                elif data[0] == finished_tag:
                    finished = True
                    usage = pb.GenerateResponse.FromString(data).finished.usage
                    counts.tokens += usage.completion_tokens
        except grpc.aio.AioRpcError:
            if not finished:  # Else it is the failure of an ack, which grpc.aio took for the call's.
                raise
        finally:
            call.cancel()


def _start(prompt: str, job: Job, sampling: Sampling) -> pb.Start:
    start = pb.Start(prompt=prompt)
    start.sampling.temperature = sampling.temperature
    if sampling.top_p < 1:
        start.sampling.top_p = sampling.top_p
    start.sampling.top_k = sampling.top_k
    start.sampling.min_p = sampling.min_p
    start.sampling.logit_bias.update(sampling.logit_bias)
    if sampling.seed is not None:
        start.sampling.seed = sampling.seed
    start.stopping.max_tokens = job.max_tokens
    start.stopping.ignore_eos = True
    start.flow.max_tokens_per_chunk = job.max_tokens_per_chunk
    start.flow.max_unacked_chunks = job.max_unacked_chunks
    return start


async def _ack(call: Any, seq: int) -> bool:
    """False when the call has ended: an ack that crosses its end fails, github.com/grpc/grpc issue 36066."""
    try:
        await call.write(pb.GenerateRequest(ack=pb.Ack(seq=seq)))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


class SmgWire:
    """SMG's MLX servicer. Its messages are learned by reflection, so that its package is not needed here."""

    _SERVICE = "mlx.grpc.engine.MlxEngine"
    # It takes token ids only; any of the vocabulary will do where a job has no tokenizer.
    _PROMPT_TOKENS = 30
    # Of all connections: the server takes two streams of one id for one.
    _ids = itertools.count(1)

    def __init__(self, channel: grpc.aio.Channel, request: Any, response: Any) -> None:
        self._channel = channel
        self._request = request
        self._response = response
        self._open: Any = channel.unary_stream(f"/{self._SERVICE}/Generate")

    @classmethod
    async def connect(cls, target: str) -> "SmgWire":
        request, response = await asyncio.to_thread(cls._messages, target)
        return cls(await _ready_channel(target), request, response)

    @classmethod
    @cache
    def _messages(cls, target: str) -> tuple[Any, Any]:
        with grpc.insecure_channel(target) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            method = pool.FindServiceByName(cls._SERVICE).methods_by_name["Generate"]
            return GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    async def close(self) -> None:
        await self._channel.close()

    async def tokens(
        self, prompt: str, job: Job, counts: Counts, sampling: Sampling = GREEDY
    ) -> AsyncGenerator[None, None]:
        request = self._request(request_id=f"{os.getpid()} {next(self._ids)}", stream=True)
        if job.tokenizer:
            request.tokenized.input_ids.extend(tokenizer(job.tokenizer).encode(prompt).ids)
        else:
            request.tokenized.input_ids.extend(
                100 + (ord(letter) % 100) for letter in prompt[: self._PROMPT_TOKENS]
            )
        request.sampling_params.temperature = sampling.temperature
        request.sampling_params.top_p = sampling.top_p
        request.sampling_params.top_k = sampling.top_k
        request.sampling_params.min_p = sampling.min_p
        request.sampling_params.logit_bias.update(sampling.logit_bias)
        if sampling.seed is not None:
            request.sampling_params.seed = sampling.seed
        request.sampling_params.max_tokens = job.max_tokens
        request.sampling_params.ignore_eos = True
        call = self._open(request.SerializeToString())
        try:
            async for data in call:
                response = self._response.FromString(data)
                if response.HasField("chunk"):
                    counts.chunks += 1
                    counts.received_bytes += len(data)
                    if counts.texts is not None:
                        ids = list(response.chunk.token_ids)
                        counts.texts.append(tokenizer(job.tokenizer).decode(ids) + " ")
                    yield
                else:
                    counts.tokens += response.complete.completion_tokens
        finally:
            call.cancel()


class MlxLmWire:
    """mlx_lm.server: completions as server-sent events, a connection for each."""

    # Small, so that a stream nobody reads leaves its bytes in the kernel and in the server.
    _BUFFER_BYTES = 1 << 14

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    @classmethod
    async def connect(cls, target: str) -> "MlxLmWire":
        host, _, port = target.rpartition(":")
        return cls(host, int(port))

    async def close(self) -> None:
        pass

    async def tokens(
        self, prompt: str, job: Job, counts: Counts, sampling: Sampling = GREEDY
    ) -> AsyncGenerator[None, None]:
        body = {
            "prompt": prompt,
            "max_tokens": job.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "logit_bias": sampling.logit_bias or None,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        data = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=self._BUFFER_BYTES)
        try:
            head = f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            status = await reader.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"mlx_lm.server answered {status!r}")
            while line := await reader.readline():
                if not line.startswith(b"data: {"):
                    continue
                if b'"choices": []' in line:
                    counts.tokens += json.loads(line[6:])["usage"]["completion_tokens"]
                else:
                    counts.chunks += 1
                    counts.received_bytes += len(line)
                    if counts.texts is not None:
                        counts.texts.append(json.loads(line[6:])["choices"][0]["text"])
                    yield
        finally:
            writer.transport.abort()


@cache
def tokenizer(path: str) -> Any:
    """The tokenizer of a file such as MODEL/tokenizer.json."""
    return Tokenizer.from_file(path)


async def _ready_channel(target: str) -> grpc.aio.Channel:
    channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
    await asyncio.wait_for(channel.channel_ready(), _CONNECT_TIMEOUT_S)
    return channel


Connect = Callable[[str], Awaitable[Wire]]
WIRES: dict[str, Connect] = {
    "penstock": PenstockWire.connect,
    "smg": SmgWire.connect,
    "mlx-lm": MlxLmWire.connect,
}
"""How to connect to a system at HOST:PORT, by its name."""
