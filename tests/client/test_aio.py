"""What only the asyncio client has to get right: task cancellation, and statuses that meet a write."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from penstock import AbortedError, Client, OverloadedError, Stream
from penstock.duplex import Duplex
from penstock.v1.generation_pb2 import Accepted, Ack, FinishReason, GenerateRequest, GenerateResponse
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from tests.client.doubles import Exchange, ScriptedServer, never_ending

CALLS = 300


async def _read(stream: Stream) -> None:
    async for _ in stream:
        pass


async def test_client_is_made_outside_a_loop(grpc_addr: str) -> None:
    client = await asyncio.to_thread(Client, grpc_addr)
    async with client:
        assert await client.complete("Hello") == "Once more"


async def test_given_channel_stays_open(grpc_addr: str) -> None:
    async with grpc.aio.insecure_channel(grpc_addr) as channel:
        async with Client(channel=channel) as client:
            assert await client.complete("Hello") == "Once more"
        async with Client(channel=channel) as client:
            assert await client.complete("Hello") == "Once more"


async def test_task_cancellation_passes_and_cancels_the_call(
    aio_client: Client, grpc_servicer: ScriptedServer
) -> None:
    grpc_servicer.script = never_ending
    second = asyncio.Event()

    async def consume() -> None:
        async for chunk in aio_client.generate("Hello"):
            if chunk.seq == 2:
                second.set()

    task = asyncio.create_task(consume())
    await second.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    exchange = await grpc_servicer.exchanges.get()
    await asyncio.wait_for(exchange.ended.wait(), 10)
    assert exchange.cancelled


async def test_asyncio_timeout_is_a_timeout(aio_client: Client, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = never_ending
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await aio_client.complete("Hello")


async def test_a_dropped_generator_cancels_the_call(
    aio_client: Client, grpc_servicer: ScriptedServer
) -> None:
    grpc_servicer.script = never_ending
    chunks = aiter(aio_client.generate("Hello"))
    await anext(chunks)
    del chunks
    exchange = await grpc_servicer.exchanges.get()
    await asyncio.wait_for(exchange.ended.wait(), 10)
    assert exchange.cancelled


async def test_cancel_waits_for_accepted(aio_client: Client, grpc_servicer: ScriptedServer) -> None:
    cancelled = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        start = await exchange.read()
        assert start is not None
        await cancelled.wait()
        await exchange.write(GenerateResponse(accepted=Accepted(max_unacked_chunks=4)))
        await exchange.read()
        await exchange.finish(FinishReason.FINISH_REASON_CANCELLED)

    grpc_servicer.script = script
    stream = aio_client.generate("Hello")
    reading = asyncio.create_task(_read(stream))
    exchange = await grpc_servicer.exchanges.get()
    await stream.cancel("changed my mind")
    cancelled.set()
    await reading
    assert exchange.log == ["< start", "> accepted", "< cancel", "> finished"]


async def test_early_status_is_never_lost(aio_client: Client, grpc_servicer: ScriptedServer) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.fail(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ErrorInfo(reason="STREAM_LIMIT", domain="penstock")
        )

    grpc_servicer.script = script
    for _ in range(CALLS):
        with pytest.raises(OverloadedError, match="full") as caught:
            await aio_client.complete("Hello")
        assert caught.value.reason == "STREAM_LIMIT"


async def test_status_before_start_is_read(aio_client: Client, grpc_servicer: ScriptedServer) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    grpc_servicer.script = script
    for _ in range(CALLS):
        with pytest.raises(OverloadedError, match="full"):
            await aio_client.complete("Hello")


async def test_status_during_acks_is_never_lost(aio_client: Client, grpc_servicer: ScriptedServer) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept(window=2)
        for _ in range(4):
            await exchange.chunk()
        await exchange.fail(grpc.StatusCode.ABORTED, "too slow", ErrorInfo(reason="ACK_TIMEOUT"))

    grpc_servicer.script = script
    for _ in range(CALLS):
        stream = aio_client.generate("Hello")
        with pytest.raises(AbortedError) as caught:
            await _read(stream)
        assert caught.value.reason == "ACK_TIMEOUT"
        assert stream.credit.chunks_received == 4


async def test_status_during_a_flood_of_writes_is_never_lost(
    grpc_addr: str, grpc_servicer: ScriptedServer
) -> None:
    """A write is under way when most of these calls end, which makes grpc.aio report INTERNAL."""

    async def script(exchange: Exchange) -> None:
        await exchange.accept(window=1)
        for _ in range(3):
            await exchange.read()
        await exchange.fail(grpc.StatusCode.ABORTED, "gone")

    async def flood(duplex: Duplex) -> None:
        while await duplex.write(GenerateRequest(ack=Ack(seq=0))):
            pass

    grpc_servicer.script = script
    async with grpc.aio.insecure_channel(grpc_addr) as channel:
        for _ in range(CALLS):
            duplex = Duplex(GenerationServiceStub(channel).Generate())
            assert await duplex.write(GenerateRequest())
            assert await duplex.read() is not None
            flooding = asyncio.create_task(flood(duplex))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await duplex.read()
            assert caught.value.code() is grpc.StatusCode.ABORTED
            await flooding


async def test_streams_side_by_side(aio_client: Client, grpc_servicer: ScriptedServer) -> None:
    texts = await asyncio.gather(*(aio_client.complete("Hello") for _ in range(32)))
    assert texts == ["Once more"] * 32
