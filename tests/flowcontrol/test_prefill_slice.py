"""Slices of prefill against plants that are slow, drift, jerk, or have a cost of their own for each step."""

import random
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.prefill_slice import LEAST_TOKENS, PrefillSlice

MOST = 512
GAP_S = 0.1


def drive(
    slices: PrefillSlice, prefill_s: Callable[[int, int], float], *, steps: int = 200, waste: float = 0.0
) -> list[tuple[int, float]]:
    """Compute a long prompt beside rows in decode. Returns tokens and prefill seconds of each step.

    prefill_s: of so many tokens, after so many. waste: chance of a step that takes ten times as long.
    """
    rng = random.Random(1)
    done, made = 0, []
    for _ in range(steps):
        tokens = slices.tokens(decoding=True)
        took_s = prefill_s(tokens, done)
        jerk = 10 if rng.random() < waste else 1
        slices.computed(tokens, took_s * rng.uniform(0.9, 1.1) * jerk)
        made.append((tokens, took_s))
        done += tokens
    return made


@pytest.mark.parametrize("tokens_per_s", [400, 1000, 3000])
def test_the_gap_is_kept_and_used(tokens_per_s: int) -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    # As it is: the prompt before was computed with nobody waiting.
    slices.computed(MOST, MOST / tokens_per_s)
    made = drive(slices, lambda tokens, done: tokens / tokens_per_s)
    assert max(took_s for _, took_s in made) <= 1.25 * GAP_S
    assert median(took_s for _, took_s in made) >= 0.85 * GAP_S


def test_a_rate_that_falls_with_the_length_of_the_prompt_is_followed() -> None:
    """Attention: a token costs the more, the more there are before it."""
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    slices.computed(MOST, MOST / 3000)
    made = drive(slices, lambda tokens, done: tokens * (1 + done / 4000) / 3000)
    assert made[-1][0] < made[0][0] / 2
    assert max(took_s for _, took_s in made) <= 1.25 * GAP_S
    assert median(took_s for _, took_s in made) >= 0.8 * GAP_S


def test_a_cost_of_each_slice_is_met_from_both_sides() -> None:
    """A slice costs 40 ms and 0.1 ms per token: 600 tokens fit, 512 are allowed. Or 1 ms per token."""
    for per_token_s, least in ((0.0001, MOST), (0.001, 48)):
        slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
        made = drive(slices, lambda tokens, done, each=per_token_s: 0.04 + tokens * each)  # type: ignore[misc]
        assert made[-1][0] >= least
        assert max(took_s for _, took_s in made[20:]) <= 1.3 * GAP_S


def test_jerks_shrink_slices_for_a_while_only() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    slices.computed(MOST, MOST / 2000)
    made = drive(slices, lambda tokens, done: tokens / 2000, waste=0.05)
    assert max(took_s for _, took_s in made) <= 1.25 * GAP_S
    assert median(took_s for _, took_s in made) >= 0.7 * GAP_S
    assert min(tokens for tokens, _ in made) >= 2 * LEAST_TOKENS


def test_a_first_measurement_that_is_far_off_is_mended_soon() -> None:
    for first_s in (1e-6, 100.0):
        slices = PrefillSlice(most=10**6, max_gap_s=GAP_S)
        slices.computed(100, first_s)
        made = drive(slices, lambda tokens, done: tokens / 2000, steps=60)
        assert 0.7 * GAP_S <= made[-1][1] <= 1.25 * GAP_S


def test_a_model_that_is_too_slow_for_the_gap_still_gets_on() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    made = drive(slices, lambda tokens, done: tokens / 20)
    assert {tokens for tokens, _ in made} == {LEAST_TOKENS}


def test_nobody_waits_or_no_gap_is_asked_for() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    assert slices.tokens(decoding=True) == LEAST_TOKENS
    slices.computed(MOST, 10.0)
    assert slices.rate == pytest.approx(MOST / 10.0)
    assert slices.tokens(decoding=False) == MOST
    unbounded = PrefillSlice(most=MOST, max_gap_s=0.0)
    unbounded.computed(MOST, 10.0)
    assert unbounded.tokens(decoding=True) == MOST


def test_a_small_last_slice_hardly_counts() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    for _ in range(5):
        slices.computed(200, 0.1)
    before = slices.tokens(decoding=True)
    slices.computed(1, 0.003)
    assert slices.tokens(decoding=True) >= 0.98 * before


@given(
    most=st.integers(1, 2000),
    gap_s=st.floats(0, 1),
    steps=st.lists(st.tuples(st.integers(0, 2000), st.floats(-1, 100))),
    decoding=st.booleans(),
)
def test_slices_are_never_empty_nor_too_large(
    most: int, gap_s: float, steps: list[tuple[int, float]], decoding: bool
) -> None:
    slices = PrefillSlice(most=most, max_gap_s=gap_s)
    for tokens, took_s in steps:
        slices.computed(tokens, took_s)
        assert 1 <= slices.tokens(decoding=decoding) <= most
        assert min(most, LEAST_TOKENS) <= slices.tokens(decoding=decoding)


@pytest.mark.parametrize(
    ("most", "gap_s", "message"), [(0, 1.0, "most .*, got 0"), (1, -0.1, "max_gap_s .*-0.1")]
)
def test_what_cannot_work_is_refused(most: int, gap_s: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrefillSlice(most=most, max_gap_s=gap_s)


def test_slices_can_be_made_smaller_and_larger_while_rows_are_decoded_or_not() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=0.0)
    for most in (MOST // 4, 2 * MOST):
        slices.resize(most)
        assert slices.tokens(decoding=False) == slices.tokens(decoding=True) == most
    with pytest.raises(ValueError, match="got 0"):
        slices.resize(0)
    assert slices.tokens(decoding=False) == 2 * MOST


def test_what_was_learned_of_the_rate_holds_for_another_size() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=1.0)
    slices.computed(MOST, 1.0)
    slices.resize(10 * MOST)
    assert slices.tokens(decoding=True) == MOST
    slices.resize(MOST // 2)
    assert slices.tokens(decoding=True) == MOST // 2


def test_a_step_without_a_slice_teaches_nothing() -> None:
    slices = PrefillSlice(most=MOST, max_gap_s=GAP_S)
    slices.computed(MOST, 1.0)
    before = slices.rate, slices.tokens(decoding=True)
    slices.computed(0, 5.0)
    assert (slices.rate, slices.tokens(decoding=True)) == before
