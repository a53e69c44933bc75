"""What a feature changes for one stream, and that a stream keeps what it began with."""

from collections.abc import Iterator

import pytest

from engine.requests import GenerationRequest
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.features import CANARY, FeatureName, FeatureTable
from penstock.v1.status_pb2 import MessagePool
from service.options import PoolOptions
from tests.service.calls import GenerateCall, endless, generate
from tests.service.drivers import StreamDriver, counted, scripted_engine
from tests.service.feature_subjects import OFF, ROLLOUT, canary, rollout_options
from tests.service.servers import LocalServer, serving

POOL = PoolOptions(size=8, max_uses=1000, cleanup_interval_s=3600.0)
STREAMS = 24


class Recording:
    """A script that keeps the requests that it was asked to answer."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    def __call__(self, request: GenerationRequest) -> Iterator[tuple[int, str]]:
        self.requests.append(request)
        return counting_script(request)


def ids() -> list[str]:
    return [f"request-{number}" for number in range(STREAMS)]


def in_canary(name: FeatureName, percent: float = 50.0) -> list[bool]:
    """Of `ids`, as a table of another server deals them."""
    table = FeatureTable({**ROLLOUT.features, name: canary(percent)}, 0.0)
    dealt = [table.of(one, "").arm == CANARY for one in ids()]
    assert {True, False} == set(dealt)
    return dealt


async def pool_of(local: LocalServer) -> MessagePool:
    return (await local.stubs.status()).message_pool


@pytest.mark.parametrize(
    ("feature", "field"), [(FeatureName.PREFIX_CACHE, "prefix_cache"), (FeatureName.SPECULATION, "speculate")]
)
async def test_the_engine_is_told_what_it_may_do_for_a_stream(feature: FeatureName, field: str) -> None:
    script = Recording()
    options = rollout_options({feature: canary(50.0)})
    async with serving(scripted_engine(script, step_s=0.0), rollout=options) as local:
        for one in ids():
            await generate(local.stubs.generation, endless(2, request_id=one))
    assert [getattr(request, field) for request in script.requests] == in_canary(feature)
    assert all(request.prefix_cache or request.speculate for request in script.requests)


async def test_a_stream_of_the_canary_arm_leases_a_message() -> None:
    options = rollout_options({FeatureName.POOLING: canary(50.0)})
    async with serving(scripted_engine(step_s=0.0), rollout=options, pool=POOL) as local:
        leased = []
        for one in ids():
            before = await pool_of(local)
            await generate(local.stubs.generation, endless(2, request_id=one))
            after = await pool_of(local)
            leased.append(after.hits + after.misses > before.hits + before.misses)
    assert leased == in_canary(FeatureName.POOLING)


@pytest.mark.parametrize("coalesce", [False, True])
def test_a_reader_that_is_behind_gets_larger_chunks_where_tokens_coalesce(
    engine: ScriptedEngine, coalesce: bool
) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 4}, coalesce=coalesce, stopping={"max_tokens": 40})
    while not driver.stream.ended:
        driver.step(8)
        driver.write_all()
        if not driver.stream.ended and driver.answer.chunks:
            driver.ack_all()
    assert driver.answer.text == counted(40)
    # The caller is told of the largest chunk that may come, whatever comes.
    assert driver.answer.accepted is not None
    assert driver.answer.accepted.max_tokens_per_chunk == 16
    assert (max(driver.sizes) > 1) is coalesce


async def test_only_the_canary_arm_coalesces() -> None:
    options = rollout_options({FeatureName.COALESCING: canary(50.0)})
    async with serving(scripted_engine(step_s=0.0), rollout=options) as local:
        coalesced = []
        for one in ids():
            async with GenerateCall(local.stubs.generation) as call:
                await call.start(endless(40, request_id=one, flow={"max_unacked_chunks": 2}))
                await call.read_chunks(2)  # The window is used up, and the rest waits.
                await call.half_close()
                answer = await call.rest()
            coalesced.append(any(len(chunk.token_ids) > 1 for chunk in answer.chunks))
    assert coalesced == in_canary(FeatureName.COALESCING)


async def test_changes_are_for_streams_that_begin_after_them() -> None:
    options = rollout_options({FeatureName.POOLING: OFF})
    async with serving(scripted_engine(step_s=0.0), rollout=options, pool=POOL) as local:
        rollout, stub = local.server.rollout, local.stubs.generation
        async with GenerateCall(stub) as without, GenerateCall(stub) as with_it:
            held = endless(40, flow={"max_unacked_chunks": 1})
            await without.start(held)
            assert (await pool_of(local)).in_use == 0
            rollout.promote(FeatureName.POOLING, "")
            await with_it.start(held)
            assert (await pool_of(local)).in_use == 1
            rollout.roll_back(FeatureName.POOLING, "")
            await generate(stub, endless(2))
            pool = await pool_of(local)
            assert (pool.in_use, pool.hits + pool.misses) == (1, 1)
            for call in (without, with_it):
                await call.half_close()
                assert (await call.rest()).text == counted(40)
            assert (await pool_of(local)).hits + (await pool_of(local)).misses == 1


async def test_a_stream_that_is_resumed_is_in_the_arm_that_it_was_in() -> None:
    script = Recording()
    options = rollout_options({FeatureName.PREFIX_CACHE: canary(50.0)})
    async with serving(scripted_engine(script, step_s=0.0), rollout=options) as local:
        for one in ids()[:6]:
            await generate(local.stubs.generation, endless(4, request_id=one))
            resumed = endless(4, request_id=one, resume={"token_ids": [1, 2], "last_seq": 2})
            async with GenerateCall(local.stubs.generation) as call:
                call.answer.resumed_ids, call.answer.last_seq = [1, 2], 2
                await call.start(resumed)
                await call.half_close()
                await call.rest()
    allowed = [request.prefix_cache for request in script.requests]
    assert allowed[::2] == allowed[1::2] == in_canary(FeatureName.PREFIX_CACHE)[:6]
