"""Sliding windows: what they count, how long they remember, and how far their quantiles are off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.slo_window import MAX_SKETCHED, MAX_SLICES, RELATIVE_ACCURACY, Slice, SlidingWindow


def interval(all_: int = 1, bad: int = 0) -> Slice:
    made = Slice()
    made.count("objective", bad, all_)
    return made


def counted(window: SlidingWindow) -> tuple[int, int]:
    events = window.total().events("objective", "", 0.5)
    return events.bad, events.all


def test_nothing_happened_in_a_new_window() -> None:
    events = SlidingWindow(3).total().events("objective", "sketch", 0.95)
    assert (events.bad, events.all, events.value) == (0, 0, None)


@given(
    length=st.integers(1, MAX_SLICES),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=60),
)
def test_a_window_of_few_intervals_is_exact(length: int, steps: list[tuple[int, int]]) -> None:
    """Against a list of all intervals; after each, so many pass in which nothing happens."""
    window, bads = SlidingWindow(length), [0]
    for bad, skipped in steps:
        window.add(interval(5, bad))
        window.skip(skipped)
        bads += [bad, *[0] * skipped]
        assert counted(window)[0] == sum(bads[-length:])


@pytest.mark.parametrize("length", [MAX_SLICES + 1, 3 * MAX_SLICES - 7, 8_640_000])
def test_a_long_window_is_short_by_less_than_a_slice(length: int) -> None:
    slice_length = -(-length // MAX_SLICES)
    window = SlidingWindow(length)
    window.add(interval())
    window.skip(length - slice_length)
    assert counted(window) == (0, 1)
    window.skip(2 * slice_length)
    assert counted(window) == (0, 0)


def test_an_interval_stays_the_callers() -> None:
    window, mine = SlidingWindow(2), interval()
    mine.measure("sketch", [1.0])
    window.add(mine)
    mine.count("objective", 1, 1)
    mine.measure("sketch", [100.0])
    assert counted(window) == (0, 1)
    assert window.total().events("objective", "sketch", 1.0).value == pytest.approx(1.0, rel=0.011)


@given(st.lists(st.floats(1e-4, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.95]))
def test_quantiles_of_several_intervals_are_within_the_accuracy(values: list[float], q: float) -> None:
    window = SlidingWindow(3)
    for start in range(3):
        each = Slice()
        each.measure("sketch", values[start::3])
        window.add(each)
    value = window.total().events("objective", "sketch", q).value
    rank = int(q * (len(values) - 1))
    # DDSketch gives the value of that rank; a sum of weights may fall on either side of it.
    near = sorted(values)[max(0, rank - 1) : rank + 2]
    assert value is not None
    assert any(value == pytest.approx(one, rel=RELATIVE_ACCURACY * 1.1) for one in near)


def test_many_values_are_sampled_evenly_and_weigh_as_many() -> None:
    """Ten calls of one value, and one call of ten thousand: the quantile is of the ten thousand."""
    each = Slice()
    for _ in range(10):
        each.measure("sketch", [1000.0])
    each.measure("sketch", [float(1 + i % 100) for i in range(40 * MAX_SKETCHED + 1)])
    value = each.events("objective", "sketch", 0.95).value
    assert value is not None
    assert 80 <= value <= 100


def test_no_values_are_none() -> None:
    each = Slice()
    each.measure("sketch", [])
    assert each.events("objective", "sketch", 0.5).value is None
