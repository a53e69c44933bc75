"""Back-off doubles from its first wait to its bound."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backoff import backoff_s


@pytest.mark.parametrize(
    ("failures", "expected_s"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (100, 5.0)]
)
def test_waits_double_up_to_the_bound(failures: int, expected_s: float) -> None:
    assert backoff_s(failures, initial_s=0.5, max_s=5.0) == expected_s


@given(initial_s=st.floats(0.001, 10.0), max_s=st.floats(0.001, 1000.0), failures=st.integers(1, 10**9))
def test_waits_never_shrink_and_never_pass_the_bound(initial_s: float, max_s: float, failures: int) -> None:
    waits = [backoff_s(failures + more, initial_s=initial_s, max_s=max_s) for more in range(3)]
    assert all(0 < wait_s <= max_s for wait_s in waits)
    assert all(earlier <= later for earlier, later in pairwise(waits))


def test_a_worker_that_fails_for_ever_does_not_overflow() -> None:
    assert backoff_s(10**30, initial_s=1.0, max_s=60.0) == 60.0
