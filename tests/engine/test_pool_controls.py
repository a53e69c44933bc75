"""What is changed in a running pool and put back: tuning, and workers that are restarted on purpose."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.contract import AS_CONFIGURED, EngineError, EngineState, EngineTuning, WorkerSnapshot, WorkerState
from engine.events import Interrupted
from engine.pool_engine import PoolEngine
from flowcontrol.reasons import Reason
from tests.engine.requests import Sink
from tests.engine.subjects import POOL, SUPERVISOR, WORKER
from tests.engine.test_pool_engine import (
    PROGRAM,
    STICKS,
    TOKENS,
    ended,
    pool,
    running,
    started,
    streams,
    text,
    whole,
)
from tests.engine.waiting import eventually
from tests.engine.worker_double import PREFIX_BYTES, STEP_S, pace

SLOW_STEP_S = 0.1
NONE_KEPT = EngineTuning(prefill_step_tokens=None, max_prefix_cache_bytes=0, max_parked_kv_bytes=None)


@asynccontextmanager
async def with_prefixes(workers: int) -> AsyncIterator[PoolEngine]:
    """Each worker keeps the prefixes of three streams."""
    worker = replace(WORKER, model="works", prefill_step_tokens=77, max_prefix_cache_bytes=3 * PREFIX_BYTES)
    engine = PoolEngine(worker, SUPERVISOR, replace(POOL, workers=workers), program=PROGRAM)
    async with started(engine):
        yield engine


def workers(engine: PoolEngine) -> list[WorkerSnapshot]:
    return list(engine.snapshot().workers)


async def run_some(engine: PoolEngine, count: int) -> list[Sink]:
    sinks = [Sink() for _ in range(count)]
    for sink in sinks:
        engine.submit(text("fine", max_tokens=3), sink)
    await ended(*sinks)
    return sinks


async def holds(engine: PoolEngine, *nbytes: int) -> None:
    """Wait until the prefix cache of each worker has so many bytes."""
    await eventually(
        lambda: [worker.counters.prefix_cache_bytes for worker in workers(engine)] == list(nbytes)
    )


async def restarted(engine: PoolEngine, index: int, **until: Any) -> None:
    """Restart a worker and wait until it is ready again."""
    before = workers(engine)[index]
    engine.restart_worker(index, "a test")
    await eventually(lambda: workers(engine)[index].restarts == before.restarts + 1)
    await whole(engine)


async def test_a_lower_budget_evicts_at_once_in_every_worker_and_the_caches_fill_again() -> None:
    async with with_prefixes(2) as engine:
        await run_some(engine, 8)
        await holds(engine, 3 * PREFIX_BYTES, 3 * PREFIX_BYTES)
        engine.tune(
            EngineTuning(
                prefill_step_tokens=None, max_prefix_cache_bytes=PREFIX_BYTES, max_parked_kv_bytes=None
            )
        )
        await holds(engine, PREFIX_BYTES, PREFIX_BYTES)
        engine.tune(NONE_KEPT)
        await holds(engine, 0, 0)
        await run_some(engine, 8)
        await holds(engine, 0, 0)
        engine.tune(AS_CONFIGURED)
        await run_some(engine, 8)
        await holds(engine, 3 * PREFIX_BYTES, 3 * PREFIX_BYTES)


async def test_slices_are_as_tuned_and_then_as_configured() -> None:
    async with with_prefixes(1) as engine:
        told = []
        for tokens in (None, 16, 999, None):
            engine.tune(
                EngineTuning(
                    prefill_step_tokens=tokens, max_prefix_cache_bytes=None, max_parked_kv_bytes=None
                )
            )
            told += [sink.finished.cached_tokens for sink in await run_some(engine, 1)]
        assert told == [77, 16, 999, 77]


async def test_a_worker_that_starts_later_is_tuned_as_well() -> None:
    async with with_prefixes(1) as engine:
        engine.tune(
            EngineTuning(
                prefill_step_tokens=5, max_prefix_cache_bytes=2 * PREFIX_BYTES, max_parked_kv_bytes=None
            )
        )
        await restarted(engine, 0)
        assert [sink.finished.cached_tokens for sink in await run_some(engine, 4)] == [5] * 4
        await holds(engine, 2 * PREFIX_BYTES)
        os.kill(workers(engine)[0].pid, signal.SIGKILL)
        await eventually(lambda: workers(engine)[0].restarts == 2)
        await whole(engine)
        assert [sink.finished.cached_tokens for sink in await run_some(engine, 4)] == [5] * 4
        await holds(engine, 2 * PREFIX_BYTES)


async def test_a_tuning_before_the_start_holds() -> None:
    engine = PoolEngine(replace(WORKER, model="works"), SUPERVISOR, POOL, program=PROGRAM)
    engine.tune(EngineTuning(5, None, None))
    await engine.start()
    assert [sink.finished.cached_tokens for sink in await run_some(engine, 1)] == [5]
    await engine.stop()


async def test_streams_of_a_restarted_worker_go_on_with_the_other_one() -> None:
    async with running(workers=2) as engine:
        sinks = [Sink() for _ in range(6)]
        for sink in sinks:
            engine.submit(text("fine", max_tokens=10**6), sink)
        assert streams(engine) == [3, 3]
        await eventually(lambda: all(sink.ids for sink in sinks))
        pid = workers(engine)[0].pid
        engine.restart_worker(0, "a test")
        assert workers(engine)[0].state is WorkerState.DEAD
        assert engine.snapshot().state is EngineState.READY
        await eventually(lambda: streams(engine) == [0, 6])
        await whole(engine)
        assert [worker.restarts for worker in workers(engine)] == [1, 0]
        assert workers(engine)[0].pid != pid
        assert sum(isinstance(event, Interrupted) for sink in sinks for event in sink.events) == 3
        for sink in sinks:
            assert sink.ids == list(range(1, len(sink.ids) + 1))
        assert engine.snapshot().failovers == 3


async def test_restarts_on_purpose_are_no_crash_loop_and_convict_nobody() -> None:
    """The stream never has a token, and no life of the worker brings anything."""
    async with running(max_crashes=1) as engine:
        sink = Sink()
        engine.submit(STICKS, sink)
        for _ in range(6):
            await eventually(lambda: streams(engine) == [1])
            await restarted(engine, 0)
        await eventually(lambda: streams(engine) == [1])
        assert not sink.ended.is_set()
        assert engine.snapshot().failovers == 6


async def test_a_request_that_hangs_every_worker_is_found_though_they_are_restarted() -> None:
    supervisor = replace(SUPERVISOR, stuck_after_s=0.3, kill_after_s=3600.0)
    engine = PoolEngine(replace(WORKER, model="works"), supervisor, POOL, program=PROGRAM)
    await engine.start()
    sink = Sink()
    engine.submit(STICKS, sink)
    for _ in range(2):
        # Dead from the restart on, so one that is ready is another process.
        await eventually(lambda: streams(engine) == [1] and workers(engine)[0].state is WorkerState.READY)
        os.kill(workers(engine)[0].pid, signal.SIGSTOP)
        await eventually(lambda: workers(engine)[0].state is WorkerState.SUSPECT)
        engine.restart_worker(0, "no sign of life")
    await ended(sink)
    assert sink.failed.reason is Reason.POISON_REQUEST
    await engine.stop()


async def test_a_worker_in_a_crash_loop_is_not_restarted(tmp_path: Path) -> None:
    engine = pool(f"barren:{tmp_path / 'lives'}", max_crashes=1)
    await engine.start()
    await eventually(lambda: workers(engine)[0].state is WorkerState.CRASH_LOOP)
    with pytest.raises(EngineError, match="worker 0 has no model loaded: its state is crash_loop") as refused:
        engine.restart_worker(0, "a test")
    assert refused.value.reason is Reason.CRASH_LOOP
    await engine.stop()


async def test_a_worker_is_restarted_once_at_a_time() -> None:
    async with running(workers=2) as engine:
        engine.restart_worker(1, "a test")
        with pytest.raises(EngineError, match="worker 1 has no model loaded: its state is dead") as refused:
            engine.restart_worker(1, "a test")
        assert refused.value.reason is Reason.MODEL_LOADING
        await whole(engine)
        assert [worker.restarts for worker in workers(engine)] == [0, 1]
        with pytest.raises(EngineError, match=r"^index: there is no worker 2; allowed: 0 to 1$"):
            engine.restart_worker(2, "a test")


async def test_a_worker_that_is_stuck_is_silent_until_it_is_restarted() -> None:
    async with running(workers=2) as engine:
        sink = Sink()
        engine.submit(text("fine", max_tokens=10**6), sink)
        await eventually(lambda: sink.ids)
        stuck, well = workers(engine)
        assert stuck.streams == 1
        os.kill(stuck.pid, signal.SIGSTOP)
        await eventually(lambda: workers(engine)[0].silent_s > 1.0)
        await eventually(lambda: workers(engine)[1].silent_s < 1.0)
        count = len(sink.ids)
        engine.restart_worker(0, "a test")
        await eventually(lambda: len(sink.ids) > count + TOKENS)
        await whole(engine)
        assert sink.ids == list(range(1, len(sink.ids) + 1))
        assert workers(engine)[0].pid != stuck.pid
        assert workers(engine)[1].pid == well.pid


async def test_a_slow_worker_shows_in_its_counters_and_is_no_stuck_one(tmp_path: Path) -> None:
    def step_s(worker: WorkerSnapshot, before: WorkerSnapshot) -> float:
        """Mean of the steps since then; 0 without any."""
        now, then = worker.counters, before.counters
        steps = now.decode_steps - then.decode_steps
        return (now.step_s - then.step_s) / steps if steps >= 3 else 0.0

    async with running(f"paced:{tmp_path}", workers=2) as engine:
        for _ in range(2):
            engine.submit(text("fine", max_tokens=10**6), Sink())
        assert streams(engine) == [1, 1]
        assert STEP_S < SLOW_STEP_S
        pace(tmp_path, workers(engine)[1].pid, SLOW_STEP_S)
        # The pace holds from the next step on: only later ones are all slow.
        steps = workers(engine)[1].counters.decode_steps
        await eventually(lambda: workers(engine)[1].counters.decode_steps >= steps + 2)
        before = workers(engine)[1]
        await eventually(lambda: step_s(workers(engine)[1], before) >= SLOW_STEP_S)
        assert workers(engine)[1].state is WorkerState.READY
