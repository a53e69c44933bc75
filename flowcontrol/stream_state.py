"""The states of one stream as a total table.

QUEUED -> PREFILL -> STREAMING <-> STALLED -> FINISHED | CANCELLED | FAILED
"""

from enum import Enum


class State(Enum):
    """Where a stream is. The last three are ends."""

    QUEUED = "queued"
    PREFILL = "prefill"
    STREAMING = "streaming"
    STALLED = "stalled"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in ENDED


class Input(Enum):
    """What can happen to a stream."""

    PREFILL_STARTED = "prefill started"
    TOKEN = "token"
    CREDIT_SPENT = "credit spent"
    """Tokens wait and no credit is left."""
    CREDIT_RETURNED = "credit returned"
    FINISH = "finish"
    CANCEL = "cancel"
    """The caller cancelled, went away, or let its deadline pass."""
    FAIL = "fail"


ENDED = frozenset({State.FINISHED, State.CANCELLED, State.FAILED})


def _row(prefill: State, token: State, spent: State, returned: State) -> dict[Input, State]:
    return {
        Input.PREFILL_STARTED: prefill,
        Input.TOKEN: token,
        Input.CREDIT_SPENT: spent,
        Input.CREDIT_RETURNED: returned,
        Input.FINISH: State.FINISHED,
        Input.CANCEL: State.CANCELLED,
        Input.FAIL: State.FAILED,
    }


# Events cross a process boundary, so one may arrive after the next: a progress report after the
# first token, a credit before it, anything after the end. Such an input leaves the state as it is.
TRANSITIONS: dict[State, dict[Input, State]] = {
    State.QUEUED: _row(State.PREFILL, State.STREAMING, State.QUEUED, State.QUEUED),
    State.PREFILL: _row(State.PREFILL, State.STREAMING, State.PREFILL, State.PREFILL),
    State.STREAMING: _row(State.STREAMING, State.STREAMING, State.STALLED, State.STREAMING),
    State.STALLED: _row(State.STALLED, State.STALLED, State.STALLED, State.STREAMING),
    **{end: dict.fromkeys(Input, end) for end in (State.FINISHED, State.CANCELLED, State.FAILED)},
}


def next_state(state: State, happened: Input) -> State:
    """The state after `happened`. Defined for every pair."""
    return TRANSITIONS[state][happened]
