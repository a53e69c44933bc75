"""The pool over worker programs without a model: its queue, poison, crash loops, and prompts made ready."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.contract import EngineError, EngineState, WorkerState
from engine.events import Interrupted
from engine.pool_engine import PoolEngine
from engine.requests import GenerationRequest, PartsInput, TextInput, TokenInput
from flowcontrol.reasons import Reason
from tests.engine.requests import Sink, generation
from tests.engine.subjects import POOL, SUPERVISOR, WORKER
from tests.engine.waiting import eventually

PROGRAM = (sys.executable, "-m", "tests.engine.worker_double")
QUICK = replace(SUPERVISOR, restart_backoff_initial_s=0.01, restart_backoff_max_s=2.0)
STICKS = generation(TextInput("sticks"))
TOKENS = 20


def pool(
    model: str = "works", *, rows: int = 16, clock: Callable[[], float] = time.monotonic, **options: Any
) -> PoolEngine:
    worker = replace(WORKER, model=model, max_batch_rows=rows)
    return PoolEngine(worker, QUICK, replace(POOL, **options), program=PROGRAM, clock=clock)


@asynccontextmanager
async def running(*args: Any, **options: Any) -> AsyncIterator[PoolEngine]:
    async with started(pool(*args, **options)) as engine:
        yield engine


@asynccontextmanager
async def started(engine: PoolEngine) -> AsyncIterator[PoolEngine]:
    """Once every worker is ready."""
    await engine.start()
    await whole(engine)
    try:
        yield engine
    finally:
        await engine.stop()


async def whole(engine: PoolEngine) -> None:
    await eventually(
        lambda: all(worker.state is WorkerState.READY for worker in engine.snapshot().workers), 60.0
    )


def text(content: str, **changes: Any) -> GenerationRequest:
    return generation(TextInput(content), **{"max_tokens": TOKENS} | changes)


async def ended(*sinks: Sink) -> None:
    async with asyncio.timeout(60.0):
        for sink in sinks:
            await sink.ended.wait()


def streams(engine: PoolEngine) -> list[int]:
    """Of each worker."""
    return [worker.streams for worker in engine.snapshot().workers]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_poison_request_is_refused_after_two_workers(workers: int) -> None:
    async with running(workers=workers) as engine:
        sink = Sink()
        engine.submit(text("poison"), sink)
        await ended(sink)
        assert sink.failed.reason is Reason.POISON_REQUEST
        assert "poison" not in sink.failed.message
        assert sum(isinstance(event, Interrupted) for event in sink.events) == 1
        await whole(engine)
        assert sum(worker.restarts for worker in engine.snapshot().workers) == 2
        after = Sink()
        engine.submit(text("fine"), after)
        await ended(after)
        assert after.ids == list(range(1, TOKENS + 1))


@pytest.mark.parametrize("workers", [1, 2])
async def test_none_is_refused_because_of_a_poison_neighbour(workers: int) -> None:
    async with running(workers=workers) as engine:
        sinks = [Sink() for _ in range(16)]
        for n, sink in enumerate(sinks):
            engine.submit(text("poison" if n == 5 else "fine"), sink)
        await ended(*sinks)
        poison = sinks.pop(5)
        assert poison.failed.reason is Reason.POISON_REQUEST
        for sink in sinks:
            assert sink.ids == list(range(1, TOKENS + 1))
            assert sink.finished.completion_tokens == TOKENS
        await whole(engine)
        assert sum(worker.restarts for worker in engine.snapshot().workers) <= 3
        assert engine.snapshot().waiting == 0


async def test_kills_from_outside_refuse_nobody() -> None:
    async with running() as engine:
        sink = Sink()
        stream = engine.submit(STICKS, sink)
        for _ in range(3):
            await whole(engine)
            pid = engine.snapshot().workers[0].pid
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda gone=pid: engine.snapshot().workers[0].pid != gone)  # type: ignore[misc]
        await eventually(lambda: streams(engine) == [1])
        assert not sink.ended.is_set()
        assert engine.snapshot().failovers == 3
        engine.cancel(stream)


async def test_a_worker_that_never_gets_ready_again_is_a_crash_loop(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    async with running(f"first life only:{lives}", max_crashes=3) as engine:
        sinks = [Sink(), Sink()]
        kept = [engine.submit(text("fine", max_tokens=10**6), sink) for sink in sinks]
        await eventually(lambda: all(sink.ids for sink in sinks))
        engine.pause(kept[1])
        os.kill(engine.snapshot().workers[0].pid, signal.SIGKILL)
        await ended(*sinks)
        assert [sink.failed.reason for sink in sinks] == [Reason.WORKER_LOST] * 2
        snapshot = engine.snapshot()
        assert (snapshot.state, snapshot.workers[0].state) == (EngineState.FAILED, WorkerState.CRASH_LOOP)
        assert snapshot.workers[0].pid == 0
        # The first life was not barren.
        assert len(lives.read_text().splitlines()) == 1 + 3
        for call in (engine.check_ready, lambda: engine.submit(text("fine"), Sink())):
            with pytest.raises(EngineError) as refused:
                call()
            assert (refused.value.reason, refused.value.retry_after_s) == (Reason.CRASH_LOOP, None)
        with pytest.raises(EngineError):
            await engine.count_tokens(TextInput("fine"))
    assert engine.snapshot().workers[0].state is WorkerState.DRAINING


async def test_a_worker_that_ends_as_soon_as_it_is_ready_is_a_crash_loop(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    engine = pool(f"barren:{lives}", max_crashes=2)
    await engine.start()
    await eventually(lambda: engine.snapshot().workers[0].state is WorkerState.CRASH_LOOP)
    assert len(lives.read_text().splitlines()) == 2
    assert engine.snapshot().workers[0].restarts == 1
    await engine.stop()


async def test_how_far_the_model_is_loaded_is_known(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    os.mkfifo(loaded)
    engine = pool(f"loads until:{loaded}")
    assert engine.snapshot().loading is None
    starting = asyncio.create_task(engine.start())
    await eventually(lambda: engine.snapshot().loading == ("weights", 2, 2))
    await asyncio.to_thread(loaded.write_bytes, b"loaded")
    await starting
    assert engine.snapshot().loading is None
    await engine.stop()


async def test_streams_that_no_worker_has_room_for_wait_in_their_order() -> None:
    async with running(rows=2, workers=2) as engine:
        sinks = [Sink() for _ in range(7)]
        numbers = [engine.submit(STICKS, sink) for sink in sinks]
        assert streams(engine) == [2, 2]
        assert engine.snapshot().waiting == 3
        assert all(not sink.events for sink in sinks)
        await eventually(lambda: sinks[6].prefills)
        assert [[p.queue_position for p in sink.prefills] for sink in sinks[4:]] == [[1], [2], [3]]
        engine.cancel(numbers[1])
        assert (streams(engine), engine.snapshot().waiting) == ([2, 2], 2)
        await eventually(lambda: len(sinks[6].prefills) == 2)
        assert [p.queue_position for p in sinks[6].prefills] == [3, 2]
        engine.cancel(numbers[5])
        await eventually(lambda: len(sinks[6].prefills) == 3)
        engine.pause(numbers[0])
        # A paused one takes no place; it comes back to its worker, full or not.
        assert (sum(streams(engine)), engine.snapshot().waiting) == (5, 0)
        engine.resume(numbers[0])
        assert sorted(streams(engine)) == [2, 3]


async def test_the_wait_for_a_worker_is_told_as_queued() -> None:
    async with running(rows=1) as engine:
        first, second = Sink(), Sink()
        engine.submit(text("fine"), first)
        engine.submit(text("fine"), second)
        await ended(first, second)
        assert first.finished.queue_s < second.finished.queue_s


async def test_a_prompt_goes_to_the_worker_that_met_its_beginning() -> None:
    async with running(workers=2, steal_threshold_rows=2) as engine:
        story = "sticks " * 100
        engine.submit(generation(TextInput("sticks")), Sink())
        engine.submit(generation(TextInput(story)), Sink())
        assert streams(engine) == [1, 1]
        for n in range(2):
            engine.submit(generation(TextInput(story + f"and {n}")), Sink())
        assert streams(engine) == [1, 3]
        engine.submit(generation(TextInput(story + "another tenant"), cache_salt="salt"), Sink())
        assert streams(engine) == [2, 3]
        for n in range(3):
            engine.submit(generation(TextInput(story + f"and {n} more")), Sink())
        # The last one would have found it by more than two streams fuller.
        assert streams(engine) == [3, 5]


class Clock:
    """The time, moved on at will."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


async def kind_of_input(engine: PoolEngine, request: GenerationRequest, prepared: int) -> tuple[str, float]:
    """What the worker got, and the time that tokenising is said to have taken."""
    sink = Sink()
    engine.submit(request, sink, prepared=prepared)
    await ended(sink)
    return sink.finished.stop_string, sink.finished.tokenise_s


async def prepared(engine: PoolEngine, request: GenerationRequest) -> int:
    number = engine.prepare(request)
    await engine.count_tokens(TextInput("answered behind it"))
    return number


async def test_a_prompt_that_was_prepared_is_not_tokenised_again() -> None:
    clock, fine = Clock(), text("fine")
    async with running(workers=2, clock=clock, warm_prompts=2, warm_ttl_s=5.0) as engine:
        number = await prepared(engine, fine)
        assert await kind_of_input(engine, fine, number) == ("TokenisedInput", 0.5)
        # Taken once.
        assert await kind_of_input(engine, fine, number) == ("TextInput", 0.0)
        for content in ("mute", "bad"):
            number = await prepared(engine, text(content))
            assert await kind_of_input(engine, text(content), number) == ("TextInput", 0.0)
        number = await prepared(engine, fine)
        clock.ahead_s += 6.0
        assert await kind_of_input(engine, fine, number) == ("TextInput", 0.0)
        numbers = [await prepared(engine, fine) for _ in range(3)]
        kinds = [(await kind_of_input(engine, fine, number))[0] for number in numbers]
        assert kinds == ["TextInput", "TokenisedInput", "TokenisedInput"]
        number = await prepared(engine, fine)
        engine.forget(number)
        assert await kind_of_input(engine, fine, number) == ("TextInput", 0.0)
        assert engine.prepare(generation(PartsInput())) == engine.prepare(generation(TokenInput((1,)))) == 0
        for worker in engine.snapshot().workers:
            os.kill(worker.pid, signal.SIGKILL)
        await eventually(lambda: engine.snapshot().state is not EngineState.READY)
        assert engine.prepare(fine) == 0
    async with running(warm_prompts=0) as engine:
        assert engine.prepare(fine) == 0


async def test_a_stream_is_told_of_each_worker_that_has_it() -> None:
    async with running(workers=2) as engine:
        sink, cancelled = Sink(), Sink()
        before = engine.snapshot().workers
        engine.submit(text("poison"), sink)
        engine.cancel(engine.submit(text("fine"), cancelled))
        await ended(sink)
        assert len(sink.assigned) == 2
        assert sink.assigned[0].pid == before[sink.assigned[0].worker].pid
        assert len({assigned.pid for assigned in sink.assigned}) == 2
        assert cancelled.assigned == []
