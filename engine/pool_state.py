"""What the workers of a pool are together."""

from collections.abc import Collection, Sequence
from dataclasses import fields

from engine.contract import NO_COUNTERS, EngineCounters, EngineError, EngineState, WorkerState
from flowcontrol.reasons import Reason

_ORDER = (
    (WorkerState.READY, EngineState.READY),
    (WorkerState.SUSPECT, EngineState.SUSPECT),
    (WorkerState.STARTING, EngineState.STARTING),
    (WorkerState.DEAD, EngineState.DEAD),
)
_REFUSALS: dict[EngineState, tuple[Reason, str]] = {
    EngineState.STARTING: (Reason.MODEL_LOADING, "the model is being loaded"),
    EngineState.DEAD: (Reason.MODEL_LOADING, "the model's worker process ended and is being restarted"),
    EngineState.FAILED: (
        Reason.CRASH_LOOP,
        "the model's worker process keeps ending and is not started again",
    ),
    EngineState.SUSPECT: (Reason.WORKER_STUCK, "the model makes no progress"),
    EngineState.STOPPING: (Reason.DRAINING, "the server is shutting down"),
}
_NOT_LOADED: dict[WorkerState, Reason] = {
    WorkerState.CRASH_LOOP: Reason.CRASH_LOOP,
    WorkerState.DRAINING: Reason.DRAINING,
}
# Of these the largest counts, of all others the sum.
_LARGEST = frozenset({"max_cancel_delay_steps", "max_decode_gap_s"})


def state_of(workers: Collection[WorkerState]) -> EngineState:
    """The best that any worker is."""
    return next((state for worker, state in _ORDER if worker in workers), EngineState.FAILED)


def refusal(state: EngineState, *, retry_after_s: float) -> EngineError:
    """Why a pool that is not READY takes no stream."""
    reason, message = _REFUSALS[state]
    lasting = state is EngineState.FAILED
    return EngineError(reason, message, retry_after_s=None if lasting else retry_after_s)


def not_loaded(index: int, state: WorkerState) -> EngineError:
    """Why a worker cannot be restarted."""
    reason = _NOT_LOADED.get(state, Reason.MODEL_LOADING)
    return EngineError(reason, f"worker {index} has no model loaded: its state is {state.value}")


def no_such_worker(index: int, workers: int) -> EngineError:
    allowed = f"0 to {workers - 1}" if workers > 1 else "0"
    text = f"index: there is no worker {index}; allowed: {allowed}"
    return EngineError(Reason.INVALID_REQUEST, text, field="index")


def together(counters: Sequence[EngineCounters]) -> EngineCounters:
    """The counters of all workers in one."""
    if len(counters) == 1:
        return counters[0]
    combined = {}
    for field in fields(NO_COUNTERS):
        values = [getattr(each, field.name) for each in counters]
        combined[field.name] = max(values) if field.name in _LARGEST else sum(values)
    return EngineCounters(**combined)
