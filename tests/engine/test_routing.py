"""Which worker takes a stream."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.routing import Load, RoutingRule

RULE = RoutingRule(max_rows=8, min_rows=1, steal_threshold=3)


def load(index: int, streams: int, **changes: Any) -> Load:
    return Load(
        **{"index": index, "streams": streams, "unproven": 0, "on_trial": False, "match": 0} | changes
    )


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        ([], None),
        ([load(0, 8), load(1, 8)], None),
        ([load(0, 8), load(1, 7)], 1),
        ([load(0, 2), load(1, 1), load(2, 1)], 1),
        # The one that has met most of the prompt, while it is not much fuller than another.
        ([load(0, 1, match=1), load(1, 4, match=5), load(2, 3)], 1),
        ([load(0, 1, match=1), load(1, 5, match=5), load(2, 3)], 0),
        ([load(0, 2, match=4), load(1, 1, match=4)], 1),
        ([load(0, 0), load(1, 8, match=9)], 0),
        # Nothing joins a stream that is on trial.
        ([load(0, 1, on_trial=True, unproven=1), load(1, 7)], 1),
        ([load(0, 1, on_trial=True, unproven=1), load(1, 8)], None),
    ],
)
def test_a_stream_as_any_other(loads: list[Load], chosen: int | None) -> None:
    assert RULE.choose(loads, on_trial=False) == chosen


def test_a_stream_on_trial_goes_where_no_other_is_unproven() -> None:
    assert RULE.choose([load(0, 1, unproven=1), load(1, 7)], on_trial=True) == 1
    assert RULE.choose([load(0, 1, unproven=1), load(1, 8)], on_trial=True) is None


def test_a_threshold_of_zero_always_takes_the_least_loaded() -> None:
    rule = RoutingRule(max_rows=8, min_rows=4, steal_threshold=0)
    assert rule.choose([load(0, 1, match=9), load(1, 0)], on_trial=False) == 1


def test_a_worker_is_filled_to_its_minimum_before_the_next_one_is_used() -> None:
    rule = RoutingRule(max_rows=8, min_rows=3, steal_threshold=3)
    counts = [0, 0, 0]
    for _ in range(9):
        chosen = rule.choose([load(index, count) for index, count in enumerate(counts)], on_trial=False)
        assert chosen is not None
        counts[chosen] += 1
        assert sum(0 < count < 3 for count in counts) <= 1
    assert counts == [3, 3, 3]


loads = st.lists(
    st.builds(
        Load,
        index=st.integers(0, 5),
        streams=st.integers(0, 9),
        unproven=st.integers(0, 3),
        on_trial=st.booleans(),
        match=st.integers(0, 4),
    ),
    unique_by=lambda each: each.index,
)
rules = st.builds(
    RoutingRule, max_rows=st.integers(1, 8), min_rows=st.integers(1, 8), steal_threshold=st.integers(0, 8)
)


@given(rules, loads, st.booleans())
def test_a_stream_waits_only_when_no_worker_may_take_it(
    rule: RoutingRule, loads: list[Load], on_trial: bool
) -> None:
    may = {
        each.index: each
        for each in loads
        if each.streams < rule.max_rows and not each.on_trial and not (on_trial and each.unproven)
    }
    chosen = rule.choose(loads, on_trial=on_trial)
    assert (chosen is None) == (not may)
    if chosen is not None:
        least = min(each.streams for each in may.values())
        taken = may[chosen]
        below_minimum = 0 < taken.streams < rule.min_rows
        assert below_minimum or taken.streams - least <= (rule.steal_threshold if taken.match else 0)
