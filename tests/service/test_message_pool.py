"""Chunk messages that are used again carry what new ones would."""

import asyncio

from engine.scripted import ScriptedEngine
from flowcontrol.pool import Pool
from flowcontrol.stream_state import Input
from penstock.v1 import generation_pb2 as pb
from penstock.v1 import status_pb2
from service.message_pool import MessagePool
from service.options import PoolOptions
from service.responses import ChunkMessage
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import GenerateCall, endless, generate
from tests.service.drivers import StreamDriver, counted, scripted_engine
from tests.service.eventually import eventually
from tests.service.servers import serving

POOL = PoolOptions(size=4, max_uses=7, cleanup_interval_s=3600.0)


def test_every_message_of_a_stream_reads_as_if_it_were_new(engine: ScriptedEngine) -> None:
    """Chunks of one token and of many take turns, and items are retired in between."""
    driver = StreamDriver(
        engine, lease=MessagePool(POOL).lease(), stopping={"max_tokens": 90}, output={"chunk_timing": True}
    )
    chunks: list[pb.Chunk] = []
    while not driver.stream.ended:
        driver.step(1 + len(chunks) % 4 * 3)
        while not driver.stream.ended and (message := driver.stream.next_message()) is not None:
            if message.HasField("chunk"):
                chunks.append(pb.Chunk.FromString(message.chunk.SerializeToString()))
    assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert [token for chunk in chunks for token in chunk.token_ids] == list(range(1, 91))
    assert "".join(chunk.text for chunk in chunks) == counted(90)
    assert {len(chunk.token_ids) for chunk in chunks} > {1}
    assert all(chunk.HasField("timing") and not chunk.logprobs for chunk in chunks)


def test_log_probabilities_are_never_put_into_a_used_message(engine: ScriptedEngine) -> None:
    pool = Pool(ChunkMessage, size=1, max_uses=100)
    driver = StreamDriver(engine, lease=pool.lease(), output={"logprobs": 2})
    driver.run(3)
    assert [len(chunk.logprobs) for chunk in driver.answer.chunks] == [1, 1, 1]


def test_the_message_goes_back_when_the_stream_is_closed(engine: ScriptedEngine) -> None:
    pool = MessagePool(POOL)
    driver = StreamDriver(engine, lease=pool.lease())
    driver.run(5)
    assert pool.snapshot().in_use == 1
    driver.stream.close(Input.CANCEL)
    assert (pool.snapshot().in_use, pool.snapshot().idle) == (0, 1)


async def test_calls_through_the_server() -> None:
    governor = governor_options(initial_streams=20)
    async with serving(scripted_engine(step_s=0.001), pool=POOL, governor=governor) as local:
        answers = await asyncio.gather(
            *(generate(local.stubs.generation, endless(60 + extra)) for extra in range(8))
        )
        assert [answer.text for answer in answers] == [counted(60 + extra) for extra in range(8)]

        def free(status: status_pb2.Status) -> bool:
            return status.message_pool.in_use == 0

        pool = (await eventually(local.stubs.status, free)).message_pool
        assert (pool.size, pool.idle, pool.hits + pool.misses) == (4, 4, 8)
        assert pool.retired > 0
        async with GenerateCall(local.stubs.generation) as call:
            await call.start(endless(2000))
            await call.read_chunks(2)
            assert (await local.stubs.status()).message_pool.in_use == 1
        await eventually(local.stubs.status, free)


async def test_without_pooling_there_is_no_pool_in_status() -> None:
    async with serving(scripted_engine(step_s=0.001)) as local:
        assert not (await local.stubs.status()).HasField("message_pool")
