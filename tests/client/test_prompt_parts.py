"""Long prompts go up in pieces, cut between characters, while the answer's messages are read."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from penstock import InvalidRequestError
from penstock.prompt_parts import CHUNK_SIZE_VARIABLE, cut, part_bytes, take_long_prompt
from penstock.v1.generation_pb2 import FinishReason, GenerateRequest, GenerateResponse, Progress, Start
from tests.client.conftest import AnyClient
from tests.client.doubles import Cut, Exchange, ResumableAnswer, ScriptedServer
from tests.client.drivers import Waits

PART_BYTES = 1024
LONG = "aé漢🎉" * 1000  # 10 bytes in four characters
HUGE = LONG * 200  # 2 MB: more than the transport takes up before the server reads


@pytest_asyncio.fixture
async def parts_client(client_kind: type[AnyClient], grpc_addr: str) -> AsyncIterator[AnyClient]:
    async with client_kind(grpc_addr, request_chunk_bytes=PART_BYTES) as client:
        yield client


@given(text=st.text(), most_bytes=st.integers(4, 20))
def test_pieces_join_to_the_text(text: str, most_bytes: int) -> None:
    pieces = list(cut(text.encode(), most_bytes))
    assert "".join(pieces) == text
    for piece in pieces:
        assert most_bytes - 3 <= len(piece.encode()) <= most_bytes or piece == pieces[-1]


def test_a_short_prompt_stays_in_the_start() -> None:
    start = Start(prompt="é" * 512)
    assert take_long_prompt(start, 1024) is None
    assert start == Start(prompt="é" * 512)


def test_a_long_prompt_leaves_the_start() -> None:
    start = Start(prompt="é" * 513, model="tiny")
    prompt = take_long_prompt(start, 1024)
    assert prompt is not None
    parts = [request.prompt_part for request in prompt.messages(4096)]
    assert start.WhichOneof("input") == "prompt_parts"
    assert start.model == "tiny"
    assert [(len(part.text), part.last) for part in parts] == [(512, False), (1, True)]


def test_other_prompts_are_never_split() -> None:
    start = Start()
    start.tokens.ids.extend(range(5000))
    assert take_long_prompt(start, 1024) is None
    assert start.WhichOneof("input") == "tokens"


def test_size_of_a_piece() -> None:
    assert part_bytes(None, {}) is None
    assert part_bytes(None, {CHUNK_SIZE_VARIABLE: ""}) is None
    assert part_bytes(None, {CHUNK_SIZE_VARIABLE: "4096"}) == 4096
    assert part_bytes(2048, {CHUNK_SIZE_VARIABLE: "4096"}) == 2048


@pytest.mark.parametrize(("told_bytes", "largest"), [(0, 32768), (4096, 4096), (1, 1024)])
def test_without_a_size_of_its_own_the_client_takes_the_servers(told_bytes: int, largest: int) -> None:
    start = Start(prompt="x" * 100_000)
    prompt = take_long_prompt(start, None)
    assert prompt is not None
    sizes = [len(request.prompt_part.text) for request in prompt.messages(told_bytes)]
    assert (max(sizes), sum(sizes)) == (largest, 100_000)
    assert take_long_prompt(Start(prompt="x" * 32768), None) is None


@pytest.mark.parametrize("value", ["1023", "67108865", "-1", "32k", "4096.0"])
def test_a_bad_environment_is_named(value: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        part_bytes(None, {CHUNK_SIZE_VARIABLE: value})
    assert str(caught.value) == f"STREAM_REQUEST_CHUNK_SIZE: got {value!r}; allowed: 1024 to 67108864 bytes"


def test_a_bad_argument_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="request_chunk_bytes: got 100; allowed: 1024"):
        part_bytes(100)


async def test_the_prompt_arrives_whole(parts_client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = _take_all
    assert await parts_client.complete(LONG) == "x"
    exchange = await grpc_servicer.exchanges.get()
    assert exchange.prompt == LONG
    assert exchange.received[0].start.WhichOneof("input") == "prompt_parts"
    sizes = [len(part.prompt_part.text.encode()) for part in _parts(exchange)]
    assert max(sizes) <= PART_BYTES
    assert len(sizes) == 10
    assert [part.prompt_part.last for part in _parts(exchange)] == [False] * 9 + [True]
    assert exchange.log.index("> accepted") < exchange.log.index("< prompt_part")


async def test_messages_are_read_while_pieces_are_written(
    parts_client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.write(GenerateResponse(progress=Progress(prompt_tokens_done=1)))
        await seen.wait()  # with the transport full of pieces
        await exchange.read_prompt()
        await exchange.chunk()
        await exchange.finish()

    grpc_servicer.script = script
    stream = parts_client.generate(HUGE)
    async for event in stream.events():
        if event.HasField("progress"):
            seen.set()
    assert stream.text == "x"
    assert (await grpc_servicer.exchanges.get()).prompt == HUGE


@pytest.mark.parametrize("pieces_read", [0, 1, 100])
async def test_a_status_in_the_middle_of_the_pieces_is_not_hidden(
    parts_client: AnyClient, grpc_servicer: ScriptedServer, pieces_read: int
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        for _ in range(pieces_read):
            await exchange.read()
        await exchange.fail(grpc.StatusCode.INVALID_ARGUMENT, "too long", ErrorInfo(reason="INVALID_REQUEST"))

    grpc_servicer.script = script
    for _ in range(20):
        with pytest.raises(InvalidRequestError, match="too long") as caught:
            await parts_client.complete(HUGE)
        assert caught.value.reason == "INVALID_REQUEST"


async def test_a_cancel_does_not_wait_for_the_pieces(
    parts_client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    cancelled = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.write(GenerateResponse(progress=Progress(prompt_tokens_done=1)))
        await cancelled.wait()
        while (request := await exchange.read()) is not None and not request.HasField("cancel"):
            pass
        await exchange.finish(FinishReason.FINISH_REASON_CANCELLED)

    grpc_servicer.script = script
    stream = parts_client.generate(HUGE)

    async def cancel() -> None:
        await asyncio.gather(stream.cancel("enough"), _set(cancelled))

    async for event in stream.events():
        if event.HasField("progress"):
            cancelling = asyncio.create_task(cancel())
    await cancelling
    assert stream.finished.reason == FinishReason.FINISH_REASON_CANCELLED
    exchange = await grpc_servicer.exchanges.get()
    assert 0 < len(_parts(exchange)) < len(HUGE.encode()) // PART_BYTES
    assert exchange.received[-1].HasField("cancel")


async def test_leaving_the_loop_in_the_middle_of_the_pieces(
    parts_client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.write(GenerateResponse(progress=Progress(prompt_tokens_done=1)))
        await asyncio.Event().wait()

    grpc_servicer.script = script
    events = parts_client.generate(HUGE).events()
    async for event in events:
        if event.HasField("progress"):
            break
    await events.aclose()
    exchange = await grpc_servicer.exchanges.get()
    await asyncio.wait_for(exchange.ended.wait(), 10)
    assert exchange.cancelled


async def test_a_resume_sends_the_pieces_again(
    client_kind: type[AnyClient], grpc_addr: str, grpc_servicer: ScriptedServer, waits: Waits
) -> None:
    answer = ResumableAnswer(["a", "b", "c"], cuts=[Cut(1), Cut(2)])

    grpc_servicer.script = answer
    async with client_kind(grpc_addr, request_chunk_bytes=PART_BYTES, **waits.options(client_kind)) as client:
        assert await client.complete(LONG, retries=1) == "abc"
    assert [exchange.prompt for exchange in answer.exchanges] == [LONG] * 3
    assert [list(start.resume.token_ids) for start in answer.starts] == [[], [1], [1, 2]]


async def _take_all(exchange: Exchange) -> None:
    await exchange.accept()
    await exchange.read_prompt()
    await exchange.chunk()
    await exchange.finish()


def _parts(exchange: Exchange) -> list[GenerateRequest]:
    return [request for request in exchange.received if request.HasField("prompt_part")]


async def _set(event: asyncio.Event) -> None:
    event.set()
