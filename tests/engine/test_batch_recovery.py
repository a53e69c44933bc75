"""A step that fails: the row that causes it fails alone, the others give the tokens of an undisturbed run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from engine.events import Event, Token
from engine.mlx_worker.generator import Step
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.step_loop import StepLoop
from engine.requests import GenerationRequest, TextInput, TokenInput
from engine.wire import Pause, Resume
from flowcontrol.reasons import Reason
from tests.engine.failing_generators import (
    POISON_TOKEN_ID,
    Faults,
    FaultyGenerator,
    PickyGenerator,
    PoisonedGenerator,
)
from tests.engine.loop_driver import LoopDriver, React, nothing
from tests.engine.requests import Sink, generation

Run = Callable[..., list[Sink]]
# Three slices of prefill.
TWO_SENTENCES = TextInput("One day a fox met a cat in the old forest. The cat was hungry.")
# Enough for a failure in mid-decode and for what follows it.
TOKENS = 16
POISON = generation(TokenInput((0, 5, POISON_TOKEN_ID, 6)))


def healthy() -> list[GenerationRequest]:
    """Greedy and sampled, short and in several slices of prefill, with and without processors."""
    return [
        generation(max_tokens=TOKENS),
        generation(TWO_SENTENCES, max_tokens=TOKENS, temperature=1.0, seed=3),
        generation(
            TextInput("The fox"), max_tokens=TOKENS, temperature=0.8, seed=4, frequency_penalty=0.6, top_k=30
        ),
    ]


@pytest.fixture(scope="module")
def run(loaded: LoadedModel, generator_options: Callable[..., Any]) -> Run:
    def run(
        make: Callable[..., RowGenerator], requests: list[GenerationRequest], react: React = nothing
    ) -> list[Sink]:
        return LoopDriver(loaded, partial(generator_options, make), react=react).run(requests)

    return run


@pytest.fixture(scope="module")
def undisturbed(run: Run) -> list[Sink]:
    return run(RowGenerator, healthy())


def assert_same(sinks: list[Sink], references: list[Sink]) -> None:
    for sink, reference in zip(sinks, references, strict=True):
        assert (sink.ids, sink.text) == (reference.ids, reference.text)
        assert sink.finished.completion_tokens == reference.finished.completion_tokens


@pytest.mark.parametrize("place", [0, 3])
def test_poisoned_row_fails_alone(run: Run, undisturbed: list[Sink], place: int) -> None:
    requests = healthy()
    requests.insert(place, POISON)
    sinks = run(PoisonedGenerator, requests)
    poisoned = sinks.pop(place)
    assert poisoned.failed.reason is Reason.STEP_FAILED
    assert poisoned.failed.message == "the model failed on this stream: StepError: poison"
    assert not poisoned.ids
    assert_same(sinks, undisturbed)


def test_poison_that_joins_rows_in_mid_decode(run: Run, undisturbed: list[Sink]) -> None:
    late: list[Sink] = []

    def submit_poison(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and len(driver.sinks[1].ids) in (4, 9) and event.stream == 1:
            late.append(driver.submit(POISON))

    sinks = run(PoisonedGenerator, healthy(), submit_poison)
    assert [sink.failed.reason for sink in late] == [Reason.STEP_FAILED] * 2
    assert_same(sinks, undisturbed)


@pytest.mark.parametrize("at_step", [1, 3, 11])
def test_an_error_that_passes_costs_nobody_anything(run: Run, undisturbed: list[Sink], at_step: int) -> None:
    faults = Faults(at_steps={at_step})
    assert_same(run(partial(FaultyGenerator, faults), healthy()), undisturbed)
    assert faults.raised == 1


def test_errors_with_tokens_between_them_are_survived(run: Run, undisturbed: list[Sink]) -> None:
    faults = Faults(at_steps=set(range(7, 200, 7)))
    assert_same(run(partial(FaultyGenerator, faults), healthy()), undisturbed)
    assert faults.raised > 1


def test_an_error_that_no_row_has_alone_is_given_up_after_three_steps_in_a_row(run: Run) -> None:
    faults = Faults(at_steps=range(6, 10**6))
    sinks = run(partial(FaultyGenerator, faults), healthy())
    assert faults.raised == 3
    for sink in sinks:
        assert sink.failed.reason is Reason.STEP_FAILED
        assert "StepError: together" in sink.failed.message


def test_after_giving_up_new_streams_are_served(run: Run, undisturbed: list[Sink]) -> None:
    faults = Faults(at_steps={1, 2, 3})
    later: list[Sink] = []

    def try_again(driver: LoopDriver, event: Event) -> None:
        if len(driver.sinks) == len(healthy()):
            later.extend(driver.submit(request) for request in healthy())

    sinks = run(partial(FaultyGenerator, faults), healthy(), try_again)
    assert all(sink.failed.reason is Reason.STEP_FAILED for sink in sinks)
    assert_same(later, undisturbed)


def test_a_row_that_cannot_be_inserted_fails_alone(run: Run, undisturbed: list[Sink]) -> None:
    sinks = run(PickyGenerator, [POISON, *healthy()])
    refused = sinks.pop(0)
    assert refused.failed.reason is Reason.STEP_FAILED
    assert "StepError: not this prompt" in refused.failed.message
    assert_same(sinks, undisturbed)


def test_paused_and_cancelled_rows_survive_a_failed_step(run: Run, undisturbed: list[Sink]) -> None:
    """Stream 1 is parked while the step fails, stream 2 leaves, stream 3 is computed again."""
    faults = Faults(at_steps={12})

    def react(driver: LoopDriver, event: Event) -> None:
        if not isinstance(event, Token):
            return
        if event.stream == 1 and len(driver.sinks[1].ids) == 5:
            driver.loop.hand_over(Pause(1))
        if event.stream == 3 and len(driver.sinks[3].ids) == 7:
            driver.cancel(2)
        if event.stream == 3 and len(driver.sinks[3].ids) == 13:
            driver.loop.hand_over(Resume(1))

    first, left, third = run(partial(FaultyGenerator, faults), healthy(), react)
    assert faults.raised == 1
    assert len(left.ids) < TOKENS
    assert_same([first, third], [undisturbed[0], undisturbed[2]])


class PausingGenerator(FaultyGenerator):
    """Has stream 2 paused, so many steps after the failure."""

    def __init__(self, faults: Faults, at_step: int, orders: list[StepLoop], **options: Any) -> None:
        super().__init__(faults, **options)
        self._at_step = at_step
        self._orders = orders

    def next(self, prefill_tokens: int) -> Step:
        step = super().next(prefill_tokens)
        if self._faults.raised and self._faults.steps == self._at_step and self._orders:
            loop = self._orders.pop()
            for order in (Pause(2), Resume(2), Pause(2)):
                loop.hand_over(order)
        return step


@pytest.mark.parametrize("steps_after", [1, 2, 4])
def test_a_row_may_pause_while_it_is_computed_again(
    run: Run, undisturbed: list[Sink], steps_after: int
) -> None:
    """Its prompt and output are in a slice of prefill then, not in the decode batch."""
    loops: list[StepLoop] = []
    seen: list[StepLoop] = []

    def react(driver: LoopDriver, event: Event) -> None:
        if not seen:
            seen.append(driver.loop)
            loops.append(driver.loop)
        if event.stream == 1 and len(driver.sinks[1].ids) == TOKENS - 1:
            driver.loop.hand_over(Resume(2))

    make = partial(PausingGenerator, Faults(at_steps={12}), 12 + steps_after, loops)
    sinks = run(make, healthy(), react)
    assert seen
    assert not loops
    assert_same(sinks, undisturbed)


def test_rows_that_wait_are_told_their_position(run: Run) -> None:
    sinks = run(RowGenerator, [generation(max_tokens=6) for _ in range(7)])
    positions = [[p.queue_position for p in sink.prefills if p.queue_position] for sink in sinks]
    assert positions[:4] == [[]] * 4
    assert [first[0] for first in positions[4:]] == [1, 2, 3]
    assert all(told == sorted(told, reverse=True) for told in positions)


def test_durations_are_counted_from_submission(run: Run) -> None:
    (sink,) = run(RowGenerator, [generation(TWO_SENTENCES)])
    assert sink.finished.queue_s > 0
    assert sink.finished.prefill_s > 0
    assert sink.finished.decode_s > 0
