"""The life of a worker process as a total table.

STARTING -> READY <-> SUSPECT -> DEAD -> STARTING ..., to CRASH_LOOP or, when the engine stops, by DRAINING.
"""

from enum import Enum

from engine.contract import WorkerState


class WorkerEvent(Enum):
    """What can happen to a worker."""

    SPAWNED = "spawned"
    """A process was started in place of one that ended."""
    LOADED = "loaded"
    """Its model is loaded and warm."""
    SILENT = "silent"
    """No step and no sign of life for longer than allowed."""
    HEARD = "heard"
    """A message came from it."""
    LOST = "lost"
    """Its process ended, or is being ended."""
    GAVE_UP = "gave up"
    """It ended too often without having done anything."""
    DRAIN = "drain"
    """It is told to end."""


_S, _E = WorkerState, WorkerEvent


def _row(state: WorkerState, changes: dict[WorkerEvent, WorkerState]) -> dict[WorkerEvent, WorkerState]:
    return dict.fromkeys(WorkerEvent, state) | changes


# What does not fit a state is late news of the one before: it leaves the state as it is.
TRANSITIONS: dict[WorkerState, dict[WorkerEvent, WorkerState]] = {
    _S.STARTING: _row(_S.STARTING, {_E.LOADED: _S.READY, _E.LOST: _S.DEAD, _E.DRAIN: _S.DRAINING}),
    _S.READY: _row(_S.READY, {_E.SILENT: _S.SUSPECT, _E.LOST: _S.DEAD, _E.DRAIN: _S.DRAINING}),
    _S.SUSPECT: _row(_S.SUSPECT, {_E.HEARD: _S.READY, _E.LOST: _S.DEAD, _E.DRAIN: _S.DRAINING}),
    _S.DEAD: _row(_S.DEAD, {_E.SPAWNED: _S.STARTING, _E.GAVE_UP: _S.CRASH_LOOP, _E.DRAIN: _S.DRAINING}),
    _S.DRAINING: _row(_S.DRAINING, {}),
    _S.CRASH_LOOP: _row(_S.CRASH_LOOP, {_E.DRAIN: _S.DRAINING}),
}


def next_worker_state(state: WorkerState, happened: WorkerEvent) -> WorkerState:
    """The state after `happened`. Defined for every pair."""
    return TRANSITIONS[state][happened]
