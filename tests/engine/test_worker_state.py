"""The table of worker states is total, and a worker that is told to end or given up stays so."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract import WorkerState
from engine.worker_state import TRANSITIONS, WorkerEvent, next_worker_state

CHANGES = {
    (WorkerState.STARTING, WorkerEvent.LOADED): WorkerState.READY,
    (WorkerState.STARTING, WorkerEvent.LOST): WorkerState.DEAD,
    (WorkerState.READY, WorkerEvent.SILENT): WorkerState.SUSPECT,
    (WorkerState.READY, WorkerEvent.LOST): WorkerState.DEAD,
    (WorkerState.SUSPECT, WorkerEvent.HEARD): WorkerState.READY,
    (WorkerState.SUSPECT, WorkerEvent.LOST): WorkerState.DEAD,
    (WorkerState.DEAD, WorkerEvent.SPAWNED): WorkerState.STARTING,
    (WorkerState.DEAD, WorkerEvent.GAVE_UP): WorkerState.CRASH_LOOP,
}


def test_the_table_is_total() -> None:
    assert set(TRANSITIONS) == set(WorkerState)
    assert all(set(row) == set(WorkerEvent) for row in TRANSITIONS.values())


@pytest.mark.parametrize(("state", "happened"), list(product(WorkerState, WorkerEvent)))
def test_each_event_in_each_state(state: WorkerState, happened: WorkerEvent) -> None:
    if happened is WorkerEvent.DRAIN:
        assert next_worker_state(state, happened) is WorkerState.DRAINING
    else:
        assert next_worker_state(state, happened) is CHANGES.get((state, happened), state)


@given(st.lists(st.sampled_from(WorkerEvent)))
def test_no_worker_is_ready_without_having_loaded_since_its_process_began(events: list[WorkerEvent]) -> None:
    state, loaded = WorkerState.STARTING, False
    for event in events:
        before, state = state, next_worker_state(state, event)
        if before is WorkerState.STARTING and event is WorkerEvent.LOADED:
            loaded = True
        if state in (WorkerState.STARTING, WorkerState.DEAD):
            loaded = False
        assert loaded or state not in (WorkerState.READY, WorkerState.SUSPECT)
        if WorkerState.DRAINING in (before, state):
            assert state is WorkerState.DRAINING
