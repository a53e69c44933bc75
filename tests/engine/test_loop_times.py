"""When the loop steps, how much it computes at a time, and what it says about its time."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from engine.events import Event, Token
from engine.mlx_worker.generator import RowInput, Step
from engine.mlx_worker.loop_times import LoopTimes
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.requests import TextInput
from flowcontrol.prefill_slice import LEAST_TOKENS
from tests.engine.loop_driver import LoopDriver
from tests.engine.requests import generation
from tests.engine.subjects import MAX_BATCH_ROWS

Drive = Callable[..., LoopDriver]
STEP_S, MODEL_S = 0.5, 0.375
MOST = 100
LONG = TextInput("One day a fox met a cat in the old forest. The cat was hungry and the fox was not. " * 6)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class NotingGenerator(RowGenerator):
    """Notes the slices that are asked for; each step takes half a second of its clock."""

    def __init__(self, slices: list[tuple[int, bool]], clock: Clock, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._slices = slices
        self._hands = clock
        self._decoding = False

    def next(self, prefill_tokens: int) -> Step:
        self._slices.append((prefill_tokens, self._decoding))
        self._hands.now_s += STEP_S
        step = super().next(prefill_tokens)
        self._decoding |= bool(step.tokens)  # A call that computes a slice may give no token.
        return replace(step, model_s=MODEL_S)


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel, generator_options: Callable[..., Any]) -> Drive:
    def drive(make: Callable[..., RowGenerator], **options: Any) -> LoopDriver:
        return LoopDriver(loaded, partial(generator_options, make), **options)

    return drive


def with_a_long_prompt(drive: Drive, *, max_decode_gap_s: float) -> tuple[list[tuple[int, bool]], LoopDriver]:
    """A long prompt comes while a row is decoded."""

    def late(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream == 1 and len(driver.sinks[1].ids) == 2:
            driver.submit(generation(LONG, max_tokens=4))

    slices: list[tuple[int, bool]] = []
    clock = Clock()
    driver = drive(
        partial(NotingGenerator, slices, clock),
        react=late,
        clock=clock,
        prefill_step_tokens=MOST,
        max_decode_gap_s=max_decode_gap_s,
    )
    driver.run([generation(max_tokens=24)])
    return slices, driver


def test_slices_are_cut_while_rows_are_decoded_only(drive: Drive) -> None:
    # No slice is done in so little time.
    slices, cut = with_a_long_prompt(drive, max_decode_gap_s=1e-6)
    assert {tokens for tokens, decoding in slices if decoding} == {LEAST_TOKENS}
    assert {tokens for tokens, decoding in slices if not decoding} == {MOST}
    slices, whole = with_a_long_prompt(drive, max_decode_gap_s=0.0)
    assert {tokens for tokens, _ in slices} == {MOST}
    for stream in (1, 2):
        assert cut.sinks[stream].ids == whole.sinks[stream].ids
    assert len(cut.sinks[2].prefills) > len(whole.sinks[2].prefills)


def test_time_is_counted_by_what_it_goes_to(drive: Drive) -> None:
    slices, driver = with_a_long_prompt(drive, max_decode_gap_s=0.0)
    counters = driver.counters[-1]
    # The last turn tells before it is counted.
    steps = len(slices) - 1
    assert counters.step_s == pytest.approx(steps * STEP_S)
    assert counters.outside_model_s == pytest.approx(steps * (STEP_S - MODEL_S))
    # A call may start a pass, or compute a slice, and leave its tokens to the next one.
    assert STEP_S <= counters.max_decode_gap_s <= 2 * STEP_S


def test_an_idle_time_is_no_gap(drive: Drive) -> None:
    clock = Clock()
    driver = drive(partial(NotingGenerator, [], clock), clock=clock)
    for _ in range(2):
        driver.run([generation(max_tokens=4)])
        clock.now_s += 100.0
    assert driver.counters[-1].max_decode_gap_s <= 2 * STEP_S
    assert driver.counters[-1].step_s < 100.0


def test_the_gap_is_the_longest_between_tokens_of_the_same_rows() -> None:
    times = LoopTimes()
    for now_s, decoding in ((1.0, False), (1.5, True), (3.0, True), (3.2, True), (90.0, False), (91.0, True)):
        times.tokens(now_s, decoding=decoding)
    assert times.max_decode_gap_s == 1.5
    assert times.steps == 6


class InsertedGenerator(RowGenerator):
    """Notes how many rows were there at the first step."""

    def __init__(self, at_first: list[int], model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._at_first = at_first
        self._inserted = 0

    def insert(self, row: RowInput) -> int:
        self._inserted += 1
        return super().insert(row)

    def next(self, prefill_tokens: int) -> Step:
        self._at_first.append(self._inserted)
        return super().next(prefill_tokens)


def test_an_idle_loop_waits_for_a_full_batch(drive: Drive) -> None:
    """The others come when the first was taken up; a loop that did not wait would have begun with it."""
    at_first: list[int] = []
    driver = drive(partial(InsertedGenerator, at_first), idle_sleep_s=120.0)

    def submit_the_others() -> None:
        while not driver.loop._waiting and not at_first:
            pass
        for _ in range(MAX_BATCH_ROWS - 1):
            driver.submit(generation(max_tokens=4))

    driver.submit(generation(max_tokens=4))
    others = threading.Thread(target=submit_the_others)
    others.start()
    driver.go()
    others.join()
    assert at_first[0] == MAX_BATCH_ROWS


def test_a_loop_that_waited_in_vain_begins(drive: Drive) -> None:
    at_first: list[int] = []
    driver = drive(partial(InsertedGenerator, at_first), idle_sleep_s=0.05)
    (sink,) = driver.run([generation(max_tokens=4)])
    assert len(sink.ids) == 4
    assert at_first[0] == 1
    assert sink.finished.queue_s >= 0.05
    assert driver.counters[-1].max_decode_gap_s > 0
