"""What several workers are together."""

from dataclasses import replace
from itertools import permutations

import pytest

from engine.contract import NO_COUNTERS, EngineState, WorkerState
from engine.pool_state import refusal, state_of, together
from flowcontrol.reasons import Reason


@pytest.mark.parametrize(
    ("workers", "state"),
    [
        ((WorkerState.READY, WorkerState.SUSPECT, WorkerState.DEAD), EngineState.READY),
        ((WorkerState.SUSPECT, WorkerState.STARTING, WorkerState.CRASH_LOOP), EngineState.SUSPECT),
        ((WorkerState.STARTING, WorkerState.DEAD), EngineState.STARTING),
        ((WorkerState.DEAD, WorkerState.CRASH_LOOP), EngineState.DEAD),
        ((WorkerState.CRASH_LOOP,), EngineState.FAILED),
    ],
)
def test_a_pool_is_the_best_that_any_worker_is(workers: tuple[WorkerState, ...], state: EngineState) -> None:
    assert {state_of(order) for order in permutations(workers)} == {state}


def test_only_a_crash_loop_of_all_is_told_without_a_time_for_a_retry() -> None:
    some = refusal(EngineState.DEAD, retry_after_s=2.0)
    assert (some.reason, some.retry_after_s) == (Reason.MODEL_LOADING, 2.0)
    every = refusal(EngineState.FAILED, retry_after_s=2.0)
    assert (every.reason, every.retry_after_s) == (Reason.CRASH_LOOP, None)


def test_counters_are_added_and_the_two_largest_kept() -> None:
    one = replace(NO_COUNTERS, running_rows=2, step_s=1.5, max_cancel_delay_steps=3, max_decode_gap_s=0.1)
    other = replace(NO_COUNTERS, running_rows=5, step_s=0.5, max_cancel_delay_steps=1, max_decode_gap_s=0.4)
    both = replace(NO_COUNTERS, running_rows=7, step_s=2.0, max_cancel_delay_steps=3, max_decode_gap_s=0.4)
    assert together([one, other]) == both
    assert together([one]) is one
