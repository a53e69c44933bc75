"""What is particular to the scripted engine: its steps, and how it dies."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from engine.events import Event, Token
from engine.requests import PartsInput, TextInput
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.reasons import Reason
from tests.engine.requests import Sink, generation

pytestmark = pytest.mark.asyncio

STEPS_PER_TURN = 10


def make(step_s: float | None) -> ScriptedEngine:
    return ScriptedEngine(
        counting_script,
        step_s=step_s,
        steps_per_turn=STEPS_PER_TURN,
        max_batch_rows=2,
        context_tokens=1000,
        default_max_tokens=100,
        vocab_size=10_000,
    )


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    """Steps by itself, in every turn of the loop."""
    engine = make(0.0)
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture
async def by_hand() -> AsyncIterator[ScriptedEngine]:
    """Steps when the test says so."""
    engine = make(None)
    await engine.start()
    yield engine
    await engine.stop()


async def test_a_turn_of_the_loop_is_so_many_steps(engine: ScriptedEngine) -> None:
    sinks = [Sink(), Sink()]
    for sink in sinks:
        engine.submit(generation(max_tokens=100), sink)
    counts = []
    while not sinks[0].ended.is_set():
        await asyncio.sleep(0)
        counts.append([len(sink.ids) for sink in sinks])
    assert counts[-11:] == [[n * STEPS_PER_TURN] * 2 for n in range(11)]


@pytest.mark.parametrize("at", [1, 3, STEPS_PER_TURN])
async def test_a_row_that_its_sink_pauses_stops_within_the_turn(engine: ScriptedEngine, at: int) -> None:
    def pause(event: Event) -> None:
        if isinstance(event, Token) and len(paused.ids) == at:
            engine.pause(event.stream)

    paused, other = Sink(pause), Sink()
    stream = engine.submit(generation(max_tokens=40), paused)
    engine.submit(generation(max_tokens=40), other)
    await other.ended.wait()
    assert len(paused.ids) == at
    engine.resume(stream)
    await paused.ended.wait()
    assert paused.ids == other.ids == list(range(1, 41))


async def test_a_place_is_taken_within_the_turn_in_which_it_is_free(engine: ScriptedEngine) -> None:
    sinks = [Sink() for _ in range(4)]
    for sink in sinks:
        engine.submit(generation(max_tokens=STEPS_PER_TURN // 2), sink)
    turns = 0
    while not sinks[-1].ended.is_set():
        await asyncio.sleep(0)
        turns += 1
    assert turns <= 3


async def test_dying_ends_every_stream_wherever_it_is(by_hand: ScriptedEngine) -> None:
    requests = [
        generation(),
        generation(),
        generation(),
        generation(PartsInput()),
        generation(top_k=10**6),
    ]
    sinks = [Sink() for _ in requests]
    streams = [by_hand.submit(request, sink) for request, sink in zip(requests, sinks, strict=True)]
    by_hand.add_prompt_part(streams[3], "a", last=False)
    by_hand.die()
    assert [sink.failed.reason for sink in sinks] == [Reason.WORKER_LOST] * len(sinks)
    by_hand.revive()
    by_hand.step()
    assert [len(sink.events) for sink in sinks] == [1] * len(sinks)


async def test_a_sink_may_kill_the_engine_in_a_step(by_hand: ScriptedEngine) -> None:
    first, second = Sink(lambda event: by_hand.die() if isinstance(event, Token) else None), Sink()
    for sink in (first, second):
        by_hand.submit(generation(), sink)
    by_hand.step()
    assert len(first.ids) == 1
    assert [sink.failed.reason for sink in (first, second)] == [Reason.WORKER_LOST] * 2
    assert not second.ids


@pytest.mark.parametrize(
    ("pieces", "words"), [(["a", "b"], 1), (["a ", "b"], 2), (["a", "", " b c", "d"], 3)]
)
async def test_a_word_may_be_cut(by_hand: ScriptedEngine, pieces: list[str], words: int) -> None:
    """Nothing is refused for words that only the cut makes."""
    sink = Sink()
    stream = by_hand.submit(generation(PartsInput(), max_tokens=1), sink)
    for piece in pieces:
        by_hand.add_prompt_part(stream, piece, last=False)
    by_hand.add_prompt_part(stream, "", last=True)
    by_hand.step()
    assert sink.finished.prompt_tokens == words
    assert await by_hand.count_tokens(TextInput("".join(pieces))) == words
