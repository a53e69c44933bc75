"""What the gate learns from streams, and predicts."""

from dataclasses import replace

import pytest

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.estimates import FirstTokenModel, HoldTime, Mean, RetrySlots, StepTime
from flowcontrol.admission.gate import Gate
from flowcontrol.admission.permits import slot_wait_s
from tests.flowcontrol.admission.governors import OPTIONS


def test_a_mean_begins_with_its_first_value_and_forgets() -> None:
    mean = Mean(4)
    assert mean.value is None
    mean.add(10.0)
    mean.add(2.0)
    assert mean.value == 8.0


def test_the_first_token_model_finds_base_and_rate() -> None:
    model = FirstTokenModel()
    assert (model.known, model.base_s, model.predict_s(10_000)) == (False, 0.0, 0.0)
    for tokens in (100, 900, 400, 2000, 50, 700):
        model.add(tokens, 0.05 + tokens / 2000)
    assert model.slope == pytest.approx(1 / 2000)
    assert model.base_s == pytest.approx(0.05)
    assert model.predict_s(1000) == pytest.approx(0.55)


def test_equal_short_prompts_say_nothing_of_a_backlog() -> None:
    model = FirstTokenModel()
    for _ in range(100):
        model.add(20, 0.03)
    assert model.slope == 0.0
    assert model.predict_s(5000) == pytest.approx(0.03)


def test_the_first_token_model_follows_a_slower_engine() -> None:
    model = FirstTokenModel()
    for speed in (2000, 1000):
        for n in range(200):
            tokens = 100 + 300 * (n % 5)
            model.add(tokens, tokens / speed)
    assert model.slope == pytest.approx(1 / 1000, rel=0.1)


def test_a_base_is_never_negative() -> None:
    model = FirstTokenModel()
    model.add(100, 0.01)
    model.add(1000, 1.0)
    assert model.base_s >= 0.0
    model.add(2000, 0.5)  # More tokens in less time: noise, not a falling line.
    model.add(3000, 0.1)
    assert model.slope >= 0.0


def test_step_time_is_measured_between_changes_of_the_count() -> None:
    steps = StepTime()
    steps.observe(100, False, -1.0)
    steps.observe(100, True, 0.0)
    steps.observe(140, True, 0.4)  # When these steps began is not known.
    assert steps.value_s is None
    steps.observe(140, True, 0.5)  # No heartbeat in between: says nothing.
    steps.observe(150, True, 0.9)
    assert steps.value_s == pytest.approx(0.05)
    assert steps.take_window_s() == pytest.approx(0.05)
    assert steps.take_window_s() is None


def test_step_time_counts_only_while_streams_decode() -> None:
    steps = StepTime()
    for count, now_s in ((0, 0.0), (10, 0.5), (20, 1.0)):
        steps.observe(count, True, now_s)
    steps.observe(25, False, 1.2)
    steps.observe(30, True, 60.0)  # A minute of idleness is no step of a minute.
    steps.observe(40, True, 60.5)
    assert steps.value_s == pytest.approx(0.05)


def test_step_time_begins_anew_with_a_restarted_engine() -> None:
    steps = StepTime()
    steps.observe(1000, True, 0.0)
    for count, now_s in ((5, 1.0), (15, 2.0), (25, 2.0), (35, 3.0)):
        steps.observe(count, True, now_s)
    assert steps.value_s == pytest.approx(0.1)


def test_expected_output_is_the_mean_within_what_is_allowed() -> None:
    holds = HoldTime()
    assert holds.expected_output(300) == 300
    holds.ended(0.0, 100, 10.0, 0.1)
    assert (holds.expected_output(300), holds.expected_output(8)) == (100, 8)


def test_hold_time_learns_what_steps_do_not_show() -> None:
    holds = HoldTime()
    assert holds.hold_s(100, None) == 0.0
    assert holds.hold_s(100, 0.1) == pytest.approx(10.0)
    for _ in range(10):
        holds.ended(10.0, 100, 20.0, 0.1)  # Readers stall: twice the time of the steps.
    assert holds.hold_s(100, 0.1) == pytest.approx(20.0)
    holds.ended(0.1, 1, 20.0, 0.1)  # One token has no time between tokens.
    holds.ended(0.0, 100, 20.0, None)
    assert holds.hold_s(100, 0.1) == pytest.approx(20.0)


def test_retry_slots_are_spread_and_capped() -> None:
    slots = RetrySlots(10.0)
    assert [slots.take(1.0, 2.0, 0.0, 100.0) for _ in range(3)] == [1.0, 3.0, 5.0]
    assert slots.take(1.0, 2.0, 0.5, 104.0) == pytest.approx(3.3)  # The slots move on with time.
    late = [slots.take(20.0, 1.0, chance, 105.0) for chance in (0.0, 0.5, 0.99)]
    assert late == pytest.approx([5.0, 7.5, 9.95])
    assert slots.take(1.0, 1.0, 0.0, 1000.0) == 1.0


def test_the_spread_says_how_little_can_be_foretold() -> None:
    holds = HoldTime()
    assert holds.spread == 0.0
    for _ in range(5):
        holds.ended(4.0, 40, 4.0, 0.1)
    assert holds.spread == 0.0
    for held_s in (1.0, 20.0) * 50:
        holds.ended(4.0, 40, held_s, 0.1)
    assert holds.spread == pytest.approx(0.9, abs=0.1)
    for held_s in (0.1, 200.0):
        holds.ended(4.0, 40, held_s, 0.1)
    assert holds.spread == 1.0


def test_slots_come_free_in_turn_and_in_rounds() -> None:
    left_s = [1.0, 2.0, 4.0]
    waits_s = [slot_wait_s(place, left_s, 5.0, 0.0) for place in (-1, 0, 1, 3, 4, 6, 7)]
    assert waits_s == [0.0, 0.0, 1.0, 4.0, 6.0, 9.0, 11.0]
    assert slot_wait_s(3, [], 5.0, 0.0) == 0.0


def test_slots_of_which_nothing_is_foretold_come_free_evenly() -> None:
    left_s = [5.0, 5.0]
    assert [slot_wait_s(place, left_s, 4.0, 1.0) for place in (1, 2, 5)] == [2.0, 4.0, 10.0]
    assert slot_wait_s(1, left_s, 4.0, 0.25) == 3.5


def test_a_long_prompt_may_take_twice_its_own_time() -> None:
    gate = Gate(OPTIONS.gate)
    for tokens in (100, 2000, 500):
        gate.first_token.add(tokens, tokens / 1000)
    assert gate.budget_s(ServiceClass.INTERACTIVE, 100) == 1.0
    assert gate.budget_s(ServiceClass.INTERACTIVE, 4000) == pytest.approx(8.0)
    assert gate.budget_s(ServiceClass.SYSTEM, 100) == float("inf")
    assert gate.ttft_load(0.25, 100) == pytest.approx(0.5)
    assert gate.ttft_load(4.0, 4000) == pytest.approx(0.5)


def test_latency_has_no_load_without_a_target_or_steps() -> None:
    gate = Gate(OPTIONS.gate)
    assert gate.latency_load() is None
    gate.steps.observe(0, True, 0.0)
    gate.steps.observe(1, True, 0.0)
    gate.steps.observe(11, True, 1.5)
    assert gate.latency_load() == pytest.approx(1.5 / 0.9)
    gate.options = replace(OPTIONS.gate, target_latency_s=0.0)
    gate.steps.observe(21, True, 3.0)
    assert gate.latency_load() is None
