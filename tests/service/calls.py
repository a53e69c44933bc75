"""One Generate call, message by message, and what a whole one must look like."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import pytest

from penstock.duplex import Duplex
from penstock.tenant import Metadata
from penstock.v1 import generation_pb2 as pb
from tests.service.refusals import Refusal, refusal

Response = pb.GenerateResponse


def start(prompt: str = "Once upon a time", **fields: Any) -> pb.Start:
    """A start message; fields: those of Start, nested ones as dicts. Another input takes prompt's place."""
    if not fields.keys() & {"chat", "tokens", "prompt_parts"}:
        fields["prompt"] = prompt
    return pb.Start(**fields)


def endless(max_tokens: int, **fields: Any) -> pb.Start:
    """A start whose output has exactly max_tokens tokens, whatever the model says."""
    stopping = {"max_tokens": max_tokens, "ignore_eos": True}
    return start(**{"stopping": stopping, "sampling": {"temperature": 0}, **fields})


@dataclass
class Answer:
    """The messages of a stream so far, checked against the contract as they come."""

    accepted: pb.Accepted | None = None
    progress: list[pb.Progress] = field(default_factory=list)
    chunks: list[pb.Chunk] = field(default_factory=list)
    notices: list[pb.Notice] = field(default_factory=list)
    finished: pb.Finished | None = None
    resumed_ids: list[int] = field(default_factory=list)
    """What the caller held before: the chunks go on after it."""
    last_seq: int = 0

    def take(self, message: Response) -> None:
        """AssertionError when the message must not come now."""
        assert self.finished is None, "a message after finished"
        kind = message.WhichOneof("message")
        assert (kind == "accepted") == (self.accepted is None), f"{kind} out of place"
        match kind:
            case "accepted":
                self.accepted = message.accepted
            case "progress":
                assert not self.chunks, "progress after a chunk"
                self.progress.append(message.progress)
            case "chunk":
                self._take_chunk(message.chunk)
            case "finished":
                self.finished = message.finished
                tokens = len(self.resumed_ids) + len(self.token_ids)
                assert self.finished.usage.completion_tokens == tokens
            case "notice":
                self.notices.append(message.notice)
            case _:
                raise AssertionError(f"unexpected message {kind}")

    def _take_chunk(self, chunk: pb.Chunk) -> None:
        assert chunk.seq == self.last_seq + len(self.chunks) + 1
        assert chunk.token_offset == len(self.resumed_ids) + len(self.token_ids)
        assert chunk.token_ids or chunk.text, "an empty chunk"
        assert self.accepted is not None
        assert len(chunk.token_ids) <= self.accepted.max_tokens_per_chunk
        self.chunks.append(chunk)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.token_ids]

    @property
    def logprobs(self) -> list[pb.TokenLogprobs]:
        return [one for chunk in self.chunks for one in chunk.logprobs]

    @property
    def end(self) -> pb.Finished:
        """The `finished` message. AssertionError before it came."""
        assert self.finished is not None, "not finished"
        return self.finished


class GenerateCall:
    """A client that sends what the test says and nothing by itself: no acks, no half-close."""

    def __init__(self, stub: Any, *, timeout_s: float | None = 60.0, metadata: Metadata = ()) -> None:
        # Plain grpc.aio calls lose the status, and what is still to be read, when a write meets the end.
        self._duplex = Duplex(stub.Generate(timeout=timeout_s, metadata=metadata))
        self.answer = Answer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        self._duplex.cancel()

    async def send(self, **message: Any) -> None:
        """Send a GenerateRequest made of the given field; nothing when the call has ended."""
        await self.write(pb.GenerateRequest(**message))

    async def write(self, message: pb.GenerateRequest) -> None:
        await self._duplex.write(message)

    async def start(self, message: pb.Start) -> pb.Accepted:
        """Send start and read `accepted`."""
        await self.send(start=message)
        await self.read()
        assert self.answer.accepted is not None
        return self.answer.accepted

    async def ack(self, seq: int) -> None:
        await self.send(ack=pb.Ack(seq=seq))

    async def half_close(self) -> None:
        await self._duplex.half_close()

    async def read(self) -> Response | None:
        """The next message; None at the end with status OK. Raises grpc.RpcError."""
        message = await self._duplex.read()
        if message is not None:
            self.answer.take(message)
        return message

    async def read_chunks(self, number: int) -> Answer:
        """Read on until so many chunks have come in all."""
        while len(self.answer.chunks) < number:
            assert await self.read() is not None, "the stream ended"
        return self.answer

    async def rest(self) -> Answer:
        """Read to the end, which must be `finished` and status OK."""
        while await self.read() is not None:
            pass
        assert self.answer.finished is not None, "the stream ended without finished"
        return self.answer

    async def refused(self) -> Refusal:
        """Read to the end, which must be an error status."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rest()
        return refusal(caught.value)


async def generate(stub: Any, message: pb.Start) -> Answer:
    """The whole answer for a caller that half-closes after start, as grpcurl and ghz do."""
    async with GenerateCall(stub) as call:
        await call.start(message)
        await call.half_close()
        return await call.rest()


async def refused(stub: Any, *messages: pb.GenerateRequest) -> Refusal:
    """The error that these messages, followed by a half-close, are answered with."""
    async with GenerateCall(stub) as call:
        for message in messages:
            await call.write(message)
        await call.half_close()
        return await call.refused()
