"""Prompts that the worker tokenises beside its main thread: what is told about them keeps its order.

The worker may keep no KV cache of paused rows, so all of it is computed again.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from engine.events import Event
from engine.pool_engine import PoolEngine
from engine.requests import GenerationRequest, ModelInput, PartsInput, TextInput
from tests.engine.requests import Sink, generation
from tests.engine.subjects import POOL, SUPERVISOR, WORKER
from tests.engine.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Beyond what is tokenised at once, and within the model's context.
TEXT = "One day a fox met a cat in the old forest. " * 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[PoolEngine]:
    options = replace(WORKER, max_context_tokens=0, prefill_step_tokens=512, max_parked_kv_bytes=0)
    engine = PoolEngine(options, SUPERVISOR, POOL)
    await engine.start()
    yield engine
    await engine.stop()


def request(model_input: ModelInput, **changes: Any) -> GenerationRequest:
    return generation(model_input, temperature=1.0, seed=11, **changes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(engine: PoolEngine) -> Sink:
    sink = Sink()
    engine.submit(request(TextInput(TEXT)), sink)
    await sink.ended.wait()
    assert sink.finished.prompt_tokens > 1000
    return sink


async def test_pause_and_resume_right_after_submit(engine: PoolEngine, whole: Sink) -> None:
    sink = Sink()
    stream = engine.submit(request(TextInput(TEXT)), sink)
    engine.pause(stream)
    engine.resume(stream)
    await sink.ended.wait()
    assert sink.ids == whole.ids


async def test_a_stall_with_eviction(engine: PoolEngine, whole: Sink) -> None:
    def pause_once(event: Event) -> None:
        if len(sink.ids) == 3:
            engine.pause(event.stream)

    before = engine.snapshot().counters.evictions
    sink = Sink(pause_once)
    stream = engine.submit(request(TextInput(TEXT), max_tokens=100), sink)
    await eventually(lambda: engine.snapshot().counters.evictions > before)
    assert engine.snapshot().counters.paused_rows == 1
    await eventually(lambda: engine.snapshot().counters.kv_bytes == 0)
    assert not sink.ended.is_set()
    engine.resume(stream)
    await sink.ended.wait()
    assert len(sink.ids) == 100
    assert sink.ids[:24] == whole.ids


async def test_pieces_and_resumed_tokens(engine: PoolEngine, whole: Sink) -> None:
    """The beginning is told to be computed before the last piece is there."""
    sink = Sink()
    stream = engine.submit(request(PartsInput(), resume_ids=whole.ids[:7]), sink)
    for start in range(0, len(TEXT) - 300, 300):
        engine.add_prompt_part(stream, TEXT[start : start + 300], last=False)
        await asyncio.sleep(0)
    await eventually(lambda: sink.prefills and sink.prefills[-1].done > 300)
    assert not sink.ids
    engine.add_prompt_part(stream, TEXT[(len(TEXT) - 1) // 300 * 300 :], last=True)
    await sink.ended.wait()
    assert sink.ids == whole.ids[7:]
    assert sink.finished.prompt_tokens == whole.finished.prompt_tokens


async def test_cancel_in_the_middle_of_the_pieces(engine: PoolEngine) -> None:
    sink = Sink()
    stream = engine.submit(request(PartsInput()), sink)
    for _ in range(3):
        engine.add_prompt_part(stream, TEXT, last=False)
    engine.cancel(stream)
    other = Sink()
    engine.submit(request(TextInput("The fox"), max_tokens=2), other)
    await other.ended.wait()
    assert sink.events == []

    def held() -> tuple[int, int, int]:
        counters = engine.snapshot().counters
        return counters.kv_bytes, counters.parked_kv_bytes, counters.running_rows

    await engine.count_tokens(TextInput(TEXT))
    await eventually(lambda: held() == (0, 0, 0))
