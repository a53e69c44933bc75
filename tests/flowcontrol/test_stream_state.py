"""The table of states is total, ends absorb, and progress goes one way."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.stream_state import ENDED, TRANSITIONS, Input, State, next_state

ENDS = {Input.FINISH: State.FINISHED, Input.CANCEL: State.CANCELLED, Input.FAIL: State.FAILED}
# In one order: several processes of one test run must find the same tests.
OVER = [state for state in State if state in ENDED]
LIVE = [state for state in State if state not in ENDED]
PATH = [State.QUEUED, State.PREFILL, State.STREAMING]


@pytest.mark.parametrize(("state", "happened"), list(product(State, Input)))
def test_every_state_takes_every_input(state: State, happened: Input) -> None:
    assert next_state(state, happened) in State
    assert set(TRANSITIONS) == set(State)
    assert set(TRANSITIONS[state]) == set(Input)


@pytest.mark.parametrize(("state", "happened"), list(product(OVER, Input)))
def test_an_end_absorbs_every_input(state: State, happened: Input) -> None:
    assert state.ended
    assert next_state(state, happened) is state


@pytest.mark.parametrize(("state", "happened"), list(product(LIVE, ENDS)))
def test_every_live_state_can_end_in_every_way(state: State, happened: Input) -> None:
    assert not state.ended
    assert next_state(state, happened) is ENDS[happened]


@given(st.lists(st.sampled_from(Input)))
def test_a_stream_never_goes_back_and_ends_once(inputs: list[Input]) -> None:
    state, seen = State.QUEUED, [State.QUEUED]
    for happened in inputs:
        after = next_state(state, happened)
        if after is not state:
            assert not state.ended
            seen.append(after)
        state = after
    assert sum(passed.ended for passed in seen) <= 1
    live = [state for state in seen if state in PATH]
    assert live.count(State.QUEUED) == 1
    assert live.count(State.PREFILL) <= 1
    # STALLED is entered from STREAMING only, and left to it or to an end.
    for before, after in pairwise(seen):
        assert (after is not State.STALLED) or before is State.STREAMING
        assert (before is not State.STALLED) or after is State.STREAMING or after.ended


@pytest.mark.parametrize(
    ("state", "happened", "after"),
    [
        (State.QUEUED, Input.PREFILL_STARTED, State.PREFILL),
        (State.QUEUED, Input.TOKEN, State.STREAMING),
        (State.PREFILL, Input.TOKEN, State.STREAMING),
        (State.STREAMING, Input.CREDIT_SPENT, State.STALLED),
        (State.STALLED, Input.CREDIT_RETURNED, State.STREAMING),
        # A step under way delivers into a stalled stream; the credit is still spent.
        (State.STALLED, Input.TOKEN, State.STALLED),
        # Late reports leave the state as it is.
        (State.STREAMING, Input.PREFILL_STARTED, State.STREAMING),
        (State.QUEUED, Input.CREDIT_SPENT, State.QUEUED),
        (State.PREFILL, Input.CREDIT_RETURNED, State.PREFILL),
    ],
)
def test_table(state: State, happened: Input, after: State) -> None:
    assert next_state(state, happened) is after
