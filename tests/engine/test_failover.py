"""Real workers that are killed and stopped at random moments: each stream is as if nothing had been."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from engine.contract import EngineState, WorkerState
from engine.events import Event, Finished, Interrupted, Token, TokenLogprobs
from engine.pool_engine import PoolEngine
from engine.requests import ChatInput, GenerationRequest, PartsInput, TextInput
from tests.engine import waiting
from tests.engine.requests import Sink, generation
from tests.engine.subjects import POOL, SUPERVISOR, WORKER

# A worker takes a second or two to start, and a busy machine many times that.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PATIENT = replace(SUPERVISOR, restart_backoff_initial_s=0.05, restart_backoff_max_s=0.2)
WATCHFUL = replace(PATIENT, stuck_after_s=2.0, kill_after_s=5.0)
ROOMY = replace(WORKER, max_context_tokens=0, max_batch_rows=16, prefill_batch_rows=8)
STREAMS = 16
TOKENS = 90
WHOLE_AGAIN_S = 60.0
WAIT_S = 90.0
STORY = "One day a fox met a cat in the old forest. "
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[2, 1], ids=["two", "one"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[PoolEngine]:
    engine = PoolEngine(ROOMY, PATIENT, replace(POOL, workers=request.param, max_crashes=100))
    await engine.start()
    await whole(engine)
    yield engine
    await engine.stop()


async def eventually(condition: Callable[[], object]) -> None:
    await waiting.eventually(condition, WAIT_S)


async def whole(engine: PoolEngine) -> None:
    """Wait until every worker is ready."""
    await waiting.eventually(
        lambda: all(worker.state is WorkerState.READY for worker in engine.snapshot().workers), WHOLE_AGAIN_S
    )


def requests() -> list[GenerationRequest]:
    """Greedy and seeded, of different prompts; two in four with log-probabilities, some resumed or a chat."""
    made = []
    for n in range(STREAMS):
        text = TextInput(STORY * (1 + n % 3) + "The end" * (n % 2))
        made.append(
            generation(
                ChatInput((("user", STORY),)) if n % 8 == 5 else text,
                seed=100 + n,
                max_tokens=TOKENS - 3 * n,
                logprobs=n % 4 if n % 4 else None,
                **WAYS[n % len(WAYS)],
            )
        )
    return made


Outcome = tuple[list[int], str, list[TokenLogprobs | None], tuple[Any, ...]]


def outcome(sink: Sink) -> Outcome:
    end = sink.finished
    kept = (end.reason, end.stop_string, end.stop_token_id, end.prompt_tokens, end.completion_tokens)
    return sink.ids, sink.text, [token.logprobs for token in sink.tokens], kept


async def run(engine: PoolEngine, requests: list[GenerationRequest]) -> list[Sink]:
    sinks = [Sink() for _ in requests]
    for request, sink in zip(requests, sinks, strict=True):
        engine.submit(request, sink)
    await ended(sinks)
    return sinks


async def ended(sinks: list[Sink]) -> None:
    async with asyncio.timeout(WAIT_S):
        for sink in sinks:
            await sink.ended.wait()


_UNBROKEN: list[tuple[GenerationRequest, Outcome]] = []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unbroken(engine: PoolEngine) -> list[tuple[GenerationRequest, Outcome]]:
    """Each request, some with a stop string of their own output, and what it gives undisturbed.

    The same for each pool: with how many workers it runs does not change it.
    """
    if not _UNBROKEN:
        asked = requests()
        outcomes = [outcome(sink) for sink in await run(engine, asked)]
        for n in range(2, STREAMS, 5):
            asked[n] = replace_stop(asked[n], outcomes[n][1][60:80])
            [stopped] = await run(engine, [asked[n]])
            assert stopped.finished.stop_string
            outcomes[n] = outcome(stopped)
        _UNBROKEN.extend(zip(asked, outcomes, strict=True))
    return _UNBROKEN


def replace_stop(request: GenerationRequest, stop: str) -> GenerationRequest:
    fields = {name: getattr(request.stopping, name) for name in request.stopping.__struct_fields__}
    stopping = type(request.stopping)(**fields | {"stop_strings": (stop, "never to be seen")})
    return msgspec.structs.replace(request, stopping=stopping)


def kill_one(engine: PoolEngine, rng: random.Random) -> int:
    """SIGKILL to a worker that is ready. Returns its process id, 0 when there is none."""
    ready = [worker.pid for worker in engine.snapshot().workers if worker.state is WorkerState.READY]
    pid = rng.choice(ready) if ready else 0
    if pid:
        os.kill(pid, signal.SIGKILL)
    return pid


def no_gap(sinks: list[Sink], expected: list[Outcome]) -> None:
    for n, (sink, whole) in enumerate(zip(sinks, expected, strict=True)):
        assert outcome(sink) == whole, f"stream {n}"


@pytest.mark.parametrize("seed", [1])
async def test_streams_outlive_kills_at_random_moments(
    engine: PoolEngine, unbroken: list[tuple[GenerationRequest, Outcome]], seed: int
) -> None:
    rng = random.Random(seed)
    before = engine.snapshot()
    sinks = [Sink() for _ in unbroken]
    for (request, _), sink in zip(unbroken, sinks, strict=True):
        engine.submit(request, sink)
    killed: set[int] = set()
    for _ in range(3):
        progress = sum(len(sink.ids) for sink in sinks) + rng.randint(0, 300)
        await eventually(
            lambda least=progress: (
                sum(len(sink.ids) for sink in sinks) >= least  # type: ignore[misc]
                or all(sink.ended.is_set() for sink in sinks)
            )
        )
        killed.add(kill_one(engine, rng))
    await ended(sinks)
    no_gap(sinks, [expected for _, expected in unbroken])
    interrupted = sum(isinstance(event, Interrupted) for sink in sinks for event in sink.events)
    assert interrupted == engine.snapshot().failovers - before.failovers > 0
    await whole(engine)
    after = engine.snapshot()
    restarts = sum(worker.restarts for worker in after.workers) - sum(w.restarts for w in before.workers)
    assert restarts == len(killed - {0})
    assert after.waiting == 0
    assert [worker.streams for worker in after.workers] == [0] * len(after.workers)


async def test_streams_outlive_a_restart_of_every_worker_in_turn(
    engine: PoolEngine, unbroken: list[tuple[GenerationRequest, Outcome]]
) -> None:
    before = engine.snapshot()
    sinks = [Sink() for _ in unbroken]
    for (request, _), sink in zip(unbroken, sinks, strict=True):
        engine.submit(request, sink)
    await eventually(lambda: any(len(sink.ids) > 5 for sink in sinks))
    for worker in before.workers:
        await whole(engine)
        engine.restart_worker(worker.index, "a test")
    await ended(sinks)
    no_gap(sinks, [expected for _, expected in unbroken])
    await whole(engine)
    after = engine.snapshot()
    restarts = [now.restarts - then.restarts for now, then in zip(after.workers, before.workers, strict=True)]
    assert restarts == [1] * len(before.workers)
    assert after.failovers > before.failovers


async def test_a_kill_in_the_middle_of_prefill(
    engine: PoolEngine, unbroken: list[tuple[GenerationRequest, Outcome]]
) -> None:
    asked = unbroken[:4]
    sinks = [Sink() for _ in asked]
    for (request, _), sink in zip(asked, sinks, strict=True):
        engine.submit(request, sink)
    await eventually(lambda: any(sink.prefills for sink in sinks))
    kill_one(engine, random.Random(1))
    await ended(sinks)
    no_gap(sinks, [expected for _, expected in asked])
    await whole(engine)


@pytest.mark.parametrize("kill_after", [0, 3])
async def test_a_prompt_in_pieces_whose_worker_is_killed_between_them(
    engine: PoolEngine, kill_after: int
) -> None:
    text = STORY * 4
    [expected] = await run(engine, [generation(TextInput(text), temperature=1.0, seed=3)])
    sink = Sink()
    stream = engine.submit(generation(PartsInput(), temperature=1.0, seed=3), sink)
    pieces = [text[start : start + 50] for start in range(0, len(text), 50)]
    for n, piece in enumerate(pieces):
        if n == kill_after:
            [worker] = [worker for worker in engine.snapshot().workers if worker.streams]
            os.kill(worker.pid, signal.SIGKILL)
            await eventually(lambda: any(isinstance(event, Interrupted) for event in sink.events))
        engine.add_prompt_part(stream, piece, last=n == len(pieces) - 1)
        await asyncio.sleep(0)
    await ended([sink])
    assert outcome(sink) == outcome(expected)
    await whole(engine)


async def test_a_paused_stream_goes_on_with_its_next_token_when_it_is_resumed(engine: PoolEngine) -> None:
    request = generation(TextInput(STORY), temperature=1.0, seed=7, max_tokens=300)
    [expected] = await run(engine, [request])

    def pause_at_50(event: Event) -> None:
        if isinstance(event, Token) and len(sink.ids) == 50:
            engine.pause(event.stream)

    sink = Sink(pause_at_50)
    stream = engine.submit(request, sink)
    await eventually(lambda: engine.snapshot().counters.paused_rows == 1)
    [worker] = [worker for worker in engine.snapshot().workers if worker.streams]
    os.kill(worker.pid, signal.SIGKILL)
    await eventually(lambda: any(isinstance(event, Interrupted) for event in sink.events))
    await whole(engine)
    count = len(sink.ids)
    # It is with no worker and takes no place in the queue while it is paused.
    assert (engine.snapshot().waiting, sum(w.streams for w in engine.snapshot().workers)) == (0, 0)
    engine.resume(stream)
    await ended([sink])
    assert 50 <= count < 300
    assert outcome(sink) == outcome(expected)


async def test_a_cancelled_stream_does_not_come_back(engine: PoolEngine) -> None:
    request = generation(TextInput(STORY), max_tokens=300)
    sinks = [Sink() for _ in range(4)]
    streams = [engine.submit(request, sink) for sink in sinks]
    await eventually(lambda: all(sink.ids for sink in sinks))

    def cancel_its_neighbour(event: Event) -> None:
        if isinstance(event, Interrupted):
            engine.cancel(streams[1])

    sinks[0].react = cancel_its_neighbour
    for worker in engine.snapshot().workers:
        os.kill(worker.pid, signal.SIGKILL)
    await eventually(lambda: any(isinstance(event, Interrupted) for event in sinks[0].events))
    count = len(sinks[1].events)
    engine.cancel(streams[2])
    await ended([sinks[0], sinks[3]])
    assert len(sinks[1].events) == count
    assert not sinks[2].ended.is_set()
    assert sinks[0].ids == sinks[3].ids
    await whole(engine)


@pytest.mark.parametrize("workers", [2, 1])
async def test_a_worker_that_hangs_is_replaced_and_its_streams_go_on(workers: int) -> None:
    engine = PoolEngine(ROOMY, WATCHFUL, replace(POOL, workers=workers))
    await engine.start()
    await whole(engine)
    request = generation(TextInput(STORY), temperature=1.0, seed=9, max_tokens=200)
    [expected] = await run(engine, [request])
    sinks = [Sink() for _ in range(4)]
    for sink in sinks:
        engine.submit(request, sink)
    await eventually(lambda: all(sink.ids for sink in sinks))
    hung = engine.snapshot().workers[0]
    os.kill(hung.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    await eventually(lambda: engine.snapshot().workers[0].state is WorkerState.SUSPECT)
    assert engine.snapshot().state is (EngineState.READY if workers > 1 else EngineState.SUSPECT)
    if workers > 1:
        # What comes now does not go to the one that hangs.
        assert await engine.count_tokens(TextInput("fox")) > 0
    await eventually(lambda: engine.snapshot().workers[0].pid != hung.pid)
    # Looks are an eighth of stuck_after_s apart; the rest is what a busy machine may take.
    assert time.monotonic() - began_s < WATCHFUL.kill_after_s + WATCHFUL.stuck_after_s + 3.0
    await ended(sinks)
    for sink in sinks:
        assert outcome(sink) == outcome(expected)
    await whole(engine)
    await engine.stop()


async def test_count_tokens_asks_another_worker_when_one_is_lost(engine: PoolEngine) -> None:
    if len(engine.snapshot().workers) == 1:
        pytest.skip("needs another worker")
    first = engine.snapshot().workers[0].pid
    os.kill(first, signal.SIGSTOP)
    # The least loaded, the first of equals, is asked before it is known to hang.
    counting = asyncio.create_task(engine.count_tokens(TextInput(STORY)))
    await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    assert await counting > 0
    await whole(engine)


async def test_what_was_prepared_gives_the_same_stream(engine: PoolEngine) -> None:
    request = generation(TextInput(STORY), temperature=1.0, seed=5)
    [expected] = await run(engine, [request])
    prepared = engine.prepare(request)
    assert prepared
    await engine.count_tokens(TextInput(STORY))  # Answered behind it.
    sink = Sink()
    engine.submit(request, sink, prepared=prepared)
    await ended([sink])
    assert outcome(sink) == outcome(expected)
    assert isinstance(sink.end, Finished)
    assert sink.end.tokenise_s > 0
    assert engine.prepare(generation(PartsInput())) == 0
