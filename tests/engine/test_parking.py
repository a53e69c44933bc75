"""Paused rows keep their KV cache within a budget; without it they give the same tokens, only later."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.events import Event, Finished, Token
from engine.mlx_worker.batch import Batch
from engine.mlx_worker.intake import Intake
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row import Row
from engine.mlx_worker.row_generator import RowGenerator
from engine.requests import GenerationRequest, TextInput
from engine.wire import Pause, Resume, Submit, Tune
from tests.engine.loop_driver import PREFILL_STEP_TOKENS, LoopDriver
from tests.engine.requests import Sink, generation

Drive = Callable[..., LoopDriver]
TOKENS = 16
PROMPT = TextInput("One day a fox met a cat in the old forest. The cat was hungry.")
UNLIMITED = 2**30


def three() -> list[GenerationRequest]:
    """Greedy, sampled, and with a penalty that looks at the output."""
    return [
        generation(PROMPT, max_tokens=TOKENS),
        generation(PROMPT, max_tokens=TOKENS, temperature=1.0, seed=3),
        generation(TextInput("The fox"), max_tokens=TOKENS, temperature=0.8, seed=4, frequency_penalty=0.6),
    ]


@pytest.fixture(scope="module")
def make_generator(generator_options: Callable[..., Any]) -> Callable[[], RowGenerator]:
    return partial(generator_options, RowGenerator)


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel, make_generator: Callable[[], RowGenerator]) -> Drive:
    return partial(LoopDriver, loaded, make_generator)


@pytest.fixture(scope="module")
def undisturbed(drive: Drive) -> list[Sink]:
    return drive().run(three())


def assert_same(sinks: list[Sink], references: list[Sink]) -> None:
    for sink, reference in zip(sinks, references, strict=True):
        assert (sink.ids, sink.text) == (reference.ids, reference.text)


def pause_and_resume(driver: LoopDriver, event: Event) -> None:
    """At every third token of every stream, so that each is parked and put back at once."""
    if isinstance(event, Token) and len(driver.sinks[event.stream].ids) % 3 == 0:
        driver.loop.hand_over(Pause(event.stream))
        driver.loop.hand_over(Resume(event.stream))


@pytest.mark.parametrize("budget", [0, 20_000, UNLIMITED])
def test_output_does_not_depend_on_the_budget(drive: Drive, undisturbed: list[Sink], budget: int) -> None:
    driver = drive(react=pause_and_resume, max_parked_kv_bytes=budget)
    assert_same(driver.run(three()), undisturbed)
    evictions = [counters.evictions for counters in driver.counters]
    assert evictions == sorted(evictions)
    assert (evictions[-1] > 0) == (budget < UNLIMITED)
    if budget == 0:
        assert evictions[-1] == len(undisturbed) * (TOKENS // 3)


def hold_two_until_the_third_ends(driver: LoopDriver, event: Event) -> None:
    """Streams 1 and 2 are parked after their fifth token, in this order, while stream 3 runs."""
    if isinstance(event, Token) and event.stream < 3 and len(driver.sinks[event.stream].ids) == 5:
        driver.loop.hand_over(Pause(event.stream))
    if isinstance(event, Finished) and event.stream == 3:
        for stream in (1, 2):
            driver.loop.hand_over(Resume(stream))


def most_parked(driver: LoopDriver) -> int:
    return max(counters.parked_kv_bytes for counters in driver.counters)


def test_parked_bytes_are_counted_until_the_row_is_back(drive: Drive, undisturbed: list[Sink]) -> None:
    driver = drive(react=hold_two_until_the_third_ends)
    assert_same(driver.run(three()), undisturbed)
    assert most_parked(driver) > 0
    assert driver.counters[-1].parked_kv_bytes == 0
    assert driver.counters[-1].evictions == 0
    for counters in driver.counters:
        assert counters.kv_bytes >= counters.parked_kv_bytes
        assert bool(counters.parked_kv_bytes) == bool(counters.paused_rows)


def test_a_budget_that_is_taken_away_takes_the_caches(drive: Drive, undisturbed: list[Sink]) -> None:
    def tune_while_two_are_parked(driver: LoopDriver, event: Event) -> None:
        hold_two_until_the_third_ends(driver, event)
        if isinstance(event, Token) and event.stream == 3 and len(driver.sinks[3].ids) == TOKENS - 2:
            driver.loop.hand_over(Tune(PREFILL_STEP_TOKENS, 0, 0))

    driver = drive(react=tune_while_two_are_parked)
    assert_same(driver.run(three()), undisturbed)
    assert most_parked(driver) > 0
    assert driver.counters[-1].evictions == 2


def test_the_longest_parked_gives_way(drive: Drive, undisturbed: list[Sink]) -> None:
    two_rows = drive(react=hold_two_until_the_third_ends)
    two_rows.run(three())
    budget = most_parked(two_rows) - 1
    driver = drive(react=hold_two_until_the_third_ends, max_parked_kv_bytes=budget)
    assert_same(driver.run(three()), undisturbed)
    assert driver.counters[-1].evictions == 1
    assert 0 < most_parked(driver) <= budget


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_cache_is_dropped_when_its_time_is_over(drive: Drive, undisturbed: list[Sink]) -> None:
    clock = Clock()

    def react(driver: LoopDriver, event: Event) -> None:
        hold_two_until_the_third_ends(driver, event)
        if event.stream == 3 and len(driver.sinks[3].ids) == TOKENS - 3:
            clock.now_s += 0.5

    for max_parked_s, evictions in ((0.5, 2), (0.6, 0), (0.0, 0)):
        driver = drive(react=react, max_parked_s=max_parked_s, clock=clock)
        assert_same(driver.run(three()), undisturbed)
        assert driver.counters[-1].evictions == evictions
        dropped = [c for c in driver.counters if c.paused_rows == 2 and c.parked_kv_bytes == 0]
        assert bool(dropped) == bool(evictions)


def test_a_cancelled_row_leaves_nothing_parked(drive: Drive, undisturbed: list[Sink]) -> None:
    def react(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream < 3 and len(driver.sinks[event.stream].ids) == 5:
            driver.loop.hand_over(Pause(event.stream))
        if event.stream == 3 and len(driver.sinks[3].ids) == TOKENS - 3:
            driver.cancel(1)
            driver.cancel(2)

    driver = drive(react=react)
    assert driver.run(three())[2].ids == undisturbed[2].ids
    assert most_parked(driver) > 0
    assert driver.counters[-1].parked_kv_bytes == 0


@pytest.fixture
def rows(loaded: LoadedModel) -> list[Row]:
    """Three rows of one length, so that none needs padding in the batch."""
    orders: list[Any] = []
    intake = Intake(loaded, orders.append, lambda messages: None, default_max_tokens=TOKENS)
    for stream in range(3):
        intake.submit(Submit(stream, generation(PROMPT, seed=stream, temperature=1.0)))
    return orders


def test_a_parked_cache_is_computed_and_keeps_no_other_row_alive(
    rows: list[Row], make_generator: Callable[[], RowGenerator]
) -> None:
    batch = Batch(make_generator)
    for row in rows:
        batch.insert(row)
    while not batch.next(64).tokens:
        pass
    batch.next(64)
    mx.synchronize()
    batch.park(rows[1])
    assert rows[1].parked is not None
    layer = rows[1].parked.cache[0]
    # An array that is not computed belongs to the stream of its thread: another one cannot read it.
    with ThreadPoolExecutor(1) as thread:
        keys = thread.submit(np.array, layer.keys).result()
    assert keys.shape[2] == len(rows[1].parked.tokens)

    with_all = mx.get_active_memory()
    for row in (rows[0], rows[2]):
        batch.remove(row)
    batch.rebuild()
    freed = with_all - mx.get_active_memory()
    assert freed > 2 * rows[1].parked.nbytes
