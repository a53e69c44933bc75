"""What tuning does in a worker: slices, the prefix cache and the time of prompts, with a real model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from engine.events import Event, Prefill, Token
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.requests import TextInput
from engine.wire import Tune
from tests.engine.loop_driver import LoopDriver
from tests.engine.requests import Sink, generation

Drive = Callable[..., LoopDriver]
STORY = "One day a fox met a cat in the old forest. The cat was hungry and the fox was not. " * 3
LARGE = 2**30
LARGE_STEP, SMALL_STEP = 48, 6


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel, generator_options: Callable[..., Any]) -> Drive:
    def drive(**options: Any) -> LoopDriver:
        return LoopDriver(loaded, partial(generator_options, RowGenerator), **options)

    return drive


def run_one(driver: LoopDriver, text: str = STORY) -> Sink:
    return driver.run([generation(TextInput(text), max_tokens=6)])[0]


def test_a_budget_of_0_empties_the_prefix_cache_and_the_old_one_fills_it_again(drive: Drive) -> None:
    driver = drive(max_prefix_cache_bytes=LARGE, prefill_step_tokens=LARGE_STEP)
    run_one(driver)
    full = driver.counters[-1].prefix_cache_bytes
    assert full > 0
    reference = run_one(driver)
    assert reference.finished.cached_tokens > 0
    driver.loop.hand_over(Tune(LARGE_STEP, 0, LARGE))
    assert run_one(driver).finished.cached_tokens == 0
    assert driver.counters[-1].prefix_cache_bytes == 0
    driver.loop.hand_over(Tune(LARGE_STEP, LARGE, LARGE))
    assert run_one(driver).finished.cached_tokens == 0
    assert driver.counters[-1].prefix_cache_bytes == full
    again = run_one(driver)
    assert again.finished.cached_tokens == reference.finished.cached_tokens
    assert again.ids == reference.ids


def test_a_lower_budget_keeps_what_was_used_last(drive: Drive) -> None:
    driver = drive(max_prefix_cache_bytes=LARGE, prefill_step_tokens=LARGE_STEP)
    run_one(driver, "A bird sang. " * 12)
    one = driver.counters[-1].prefix_cache_bytes
    run_one(driver)
    both = driver.counters[-1].prefix_cache_bytes
    driver.loop.hand_over(Tune(LARGE_STEP, both - 1, LARGE))
    assert run_one(driver).finished.cached_tokens > 0
    assert driver.counters[-1].prefix_cache_bytes == both - one
    assert run_one(driver, "A bird sang. " * 12).finished.cached_tokens == 0


def with_a_long_prompt(drive: Drive, *orders: Tune) -> tuple[list[int], int, LoopDriver]:
    """A long prompt comes while a row is decoded, after these orders.

    Returns the tokens of each of its slices, and the tokens that the row had between the first and the last.
    """
    beside: list[int] = []

    def react(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream == 1 and len(driver.sinks[1].ids) == 2:
            for order in orders:
                driver.loop.hand_over(order)
            driver.submit(generation(TextInput(STORY), max_tokens=2))
        elif isinstance(event, Prefill) and event.stream == 2:
            beside.append(len(driver.sinks[1].ids))

    driver = drive(react=react, prefill_step_tokens=LARGE_STEP)
    driver.run([generation(max_tokens=80)])
    done = [event.done for event in driver.sinks[2].prefills if event.done]
    return (
        [after - before for before, after in zip([0, *done], done, strict=False)],
        beside[-1] - beside[0],
        driver,
    )


def test_smaller_slices_let_more_decode_steps_in_between(drive: Drive) -> None:
    large, few, reference = with_a_long_prompt(drive)
    small, many, tuned = with_a_long_prompt(drive, Tune(SMALL_STEP, 0, LARGE))
    back, _, _ = with_a_long_prompt(drive, Tune(SMALL_STEP, 0, LARGE), Tune(LARGE_STEP, 0, LARGE))
    assert set(large[:-1]) == {LARGE_STEP}
    assert set(small[:-1]) == {SMALL_STEP}
    assert back == large
    assert (few, many) == (len(large) - 1, len(small) - 1)
    assert many > 4 * few > 0
    assert {number: sink.ids for number, sink in tuned.sinks.items()} == {
        number: sink.ids for number, sink in reference.sinks.items()
    }


def test_the_time_that_prompts_take_is_counted(drive: Drive) -> None:
    driver = drive(prefill_step_tokens=LARGE_STEP)
    run_one(driver)
    first = driver.counters[-1]
    assert 0 < first.prefill_s < first.step_s
    driver.run([generation(max_tokens=40)])
    second = driver.counters[-1]
    assert second.prefill_s - first.prefill_s < second.step_s - first.step_s
