"""What both clients do with a stream: order of messages, acknowledgements, ends."""

import asyncio

import grpc
import pytest

from penstock import CancelledStreamError, NotFoundError, PenstockError, ProtocolError
from penstock.v1.generation_pb2 import Chunk, Finished, FinishReason, GenerateResponse, Notice, Progress
from tests.client.conftest import AnyClient
from tests.client.doubles import Exchange, Script, ScriptedServer, never_ending


async def ended(server: ScriptedServer) -> Exchange:
    """The server's side of the next stream, once it is over."""
    exchange = await server.exchanges.get()
    await asyncio.wait_for(exchange.ended.wait(), 10)
    return exchange


async def test_text_usage_and_order(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    stream = client.generate("Hello", max_tokens=2, request_id="r-7")
    assert [chunk.text async for chunk in stream] == ["Once ", "more"]
    assert stream.text == "Once more"
    assert stream.done
    assert stream.finished.usage.completion_tokens == 2
    assert stream.accepted.request_id == "r-7"
    exchange = await ended(grpc_servicer)
    assert exchange.received[0].start.prompt == "Hello"
    assert exchange.received[0].start.stopping.max_tokens == 2
    assert exchange.log[:2] == ["< start", "> accepted"]
    assert exchange.half_closed
    assert not exchange.cancelled


async def test_complete(client: AnyClient) -> None:
    assert await client.complete("Hello") == "Once more"


async def test_events_shows_every_message(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.write(GenerateResponse(progress=Progress(queue_position=1)))
        await exchange.write(GenerateResponse(notice=Notice(code="SLOW_CONSUMER", text="You are slow.")))
        await exchange.chunk()
        await exchange.finish()

    grpc_servicer.script = script
    stream = client.generate("Hello")
    kinds = [event.WhichOneof("message") async for event in stream.events()]
    assert kinds == ["accepted", "progress", "notice", "chunk", "finished"]
    assert [notice.code for notice in stream.notices] == ["SLOW_CONSUMER"]


@pytest.mark.parametrize(
    ("window", "chunks", "acks"),
    [(1, 3, [1, 2, 3]), (2, 3, [1, 2, 3]), (3, 3, [1, 2, 3]), (4, 8, [2, 4, 6, 8]), (10, 12, [5, 10])],
)
async def test_acks_at_half_a_window(
    client: AnyClient, grpc_servicer: ScriptedServer, window: int, chunks: int, acks: list[int]
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept(window)
        await exchange.chunks(chunks, window)
        while exchange.acks != acks:
            assert await exchange.read() is not None
        await exchange.finish()

    grpc_servicer.script = script
    stream = client.generate("Hello")
    assert [chunk.seq async for chunk in stream] == list(range(1, chunks + 1))
    exchange = await ended(grpc_servicer)
    assert exchange.acks == acks
    assert stream.credit.window == window
    assert stream.credit.chunks_received == chunks
    assert stream.credit.acks_sent == len(acks)
    assert stream.credit.lowest_credit == window - max(1, window // 2)


async def test_no_acks_when_credits_are_not_enforced(
    client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept(window=0)
        for _ in range(50):
            await exchange.chunk()
        await exchange.finish()

    grpc_servicer.script = script
    assert await client.complete("Hello") == "x" * 50
    assert (await ended(grpc_servicer)).log[-1] == "> finished"


async def test_no_ack_while_the_application_holds_a_chunk(
    client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept(window=4)
        await exchange.chunks(6, window=4)
        await exchange.finish()

    grpc_servicer.script = script
    stream = client.generate("Hello")
    chunks = aiter(stream)
    assert [(await anext(chunks)).seq for _ in range(2)] == [1, 2]
    exchange = await grpc_servicer.exchanges.get()
    await client.status()  # on the same connection, so an ack written before it has arrived
    assert exchange.acks == []
    assert (await anext(chunks)).seq == 3
    assert [chunk.seq async for chunk in chunks] == [4, 5, 6]
    await asyncio.wait_for(exchange.ended.wait(), 10)
    assert exchange.acks[:2] == [2, 4]


async def test_break_cancels_the_call(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = never_ending
    stream = client.generate("Hello")
    async for _ in stream:
        break
    assert (await ended(grpc_servicer)).cancelled
    with pytest.raises(RuntimeError, match="has not finished"):
        _ = stream.finished


async def test_exception_in_the_loop_cancels_the_call(
    client: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    grpc_servicer.script = never_ending

    async def fail_at_first_chunk() -> None:
        async for _ in client.generate("Hello"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_at_first_chunk()
    assert (await ended(grpc_servicer)).cancelled


async def test_cancel_in_band(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept(window=2)
        await exchange.chunk()
        while not (request := await exchange.read()) or not request.HasField("cancel"):
            pass
        await exchange.finish(FinishReason.FINISH_REASON_CANCELLED)

    grpc_servicer.script = script
    stream = client.generate("Hello")
    async for _ in stream:
        await stream.cancel("enough")
        await stream.cancel("again")
    assert stream.finished.reason == FinishReason.FINISH_REASON_CANCELLED
    exchange = await ended(grpc_servicer)
    assert [request.cancel.reason for request in exchange.received[1:]] == ["enough"]
    await stream.cancel("too late")


async def test_close_from_elsewhere_ends_the_loop(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = never_ending
    stream = client.generate("Hello")
    chunks = aiter(stream)
    await anext(chunks)
    await anext(chunks)
    waiting = asyncio.create_task(anext(chunks))
    await client.status()
    await stream.aclose()
    with pytest.raises(CancelledStreamError):
        await waiting
    assert (await ended(grpc_servicer)).cancelled


async def test_stream_is_read_once(client: AnyClient) -> None:
    stream = client.generate("Hello")
    assert [chunk async for chunk in stream]
    with pytest.raises(RuntimeError, match="once"):
        _ = [chunk async for chunk in stream]


async def _no_accepted(exchange: Exchange) -> None:
    await exchange.read()
    await exchange.chunk()


async def _gap(exchange: Exchange) -> None:
    await exchange.accept()
    await exchange.chunk()
    await exchange.write(GenerateResponse(chunk=Chunk(seq=3)))


async def _repeat(exchange: Exchange) -> None:
    await exchange.accept()
    await exchange.chunk()
    await exchange.write(GenerateResponse(chunk=Chunk(seq=1)))


async def _no_finished(exchange: Exchange) -> None:
    await exchange.accept()
    await exchange.chunk()


async def _after_finished(exchange: Exchange) -> None:
    await exchange.accept()
    await exchange.write(GenerateResponse(finished=Finished()))
    await exchange.chunk()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (_no_accepted, "chunk before accepted"),
        (_gap, "chunk 3 after chunk 1"),
        (_repeat, "chunk 1 after chunk 1"),
        (_no_finished, "without finished"),
        (_after_finished, "chunk after finished"),
    ],
)
async def test_broken_contract(
    client: AnyClient, grpc_servicer: ScriptedServer, script: Script, message: str
) -> None:
    grpc_servicer.script = script
    with pytest.raises(ProtocolError, match=message):
        await client.complete("Hello")


async def test_other_calls(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    assert await client.count_tokens("Hello") == 7
    assert await client.count_tokens([{"role": "user", "content": "Hi"}], model="tiny") == 7
    assert grpc_servicer.counted[0].prompt == "Hello"
    assert grpc_servicer.counted[1].chat.messages[0].content == "Hi"
    assert [model.name for model in await client.models()] == ["tiny"]
    assert (await client.status()).streams.max_active == 64


async def test_loading_a_model_tells_how_it_goes(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    told = [message async for message in client.load_model("./tiny", aliases=["a", "b"])]
    assert [message.progress.stage for message in told] == ["weights", "weights", "warm-up", ""]
    assert told[-1].model.name == "tiny"
    [request] = grpc_servicer.loads
    assert (request.source, list(request.aliases)) == ("./tiny", ["a", "b"])
    with pytest.raises(PenstockError, match="no such model") as caught:
        [message async for message in client.load_model("./other")]
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_unloading_a_model(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    assert await client.unload_model("tiny") == 2
    assert await client.unload_model("tiny", now=True) == 2
    assert [request.now for request in grpc_servicer.unloads] == [False, True]
    with pytest.raises(NotFoundError):
        await client.unload_model("other")


async def test_watch_status(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    seen = 0
    async for status in client.watch_status(interval_ms=100):
        assert status.version == "0.1.0"
        seen += 1
        if seen == 3:
            break
    await asyncio.wait_for(grpc_servicer.watchers_gone.wait(), 10)


async def test_closed_client(client: AnyClient) -> None:
    await client.status()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.complete("Hello")
