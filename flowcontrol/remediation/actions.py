"""What can be done, and what is told of it."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """Closed set; the value is its name in status and metrics. All but the one-shot ones are undone."""

    LOWER_LIMIT = "LOWER_LIMIT"
    """Fewer streams in flight. Undone: the bounds of before."""
    FIX_LIMIT = "FIX_LIMIT"
    """Strategy `fixed` at the last good limit. Undone: the strategy of before."""
    SHRINK_PREFILL = "SHRINK_PREFILL"
    """Shorter slices of prompts between decode steps. Undone: the length of before."""
    EVICT_CACHES = "EVICT_CACHES"
    """Drop parked and prefix caches, and give them a smaller budget. Undone: the budget of before."""
    THROTTLE_TENANT = "THROTTLE_TENANT"
    """Fewer streams for the tenant that is the subject. Undone: its limits of before."""
    RESTART_WORKER = "RESTART_WORKER"
    """End the worker that is the subject, MODEL/INDEX; its streams go on elsewhere. One-shot."""
    ROLL_BACK_FEATURE = "ROLL_BACK_FEATURE"
    """End the canary of the feature that is the subject. One-shot: people bring it back."""


ONE_SHOT = frozenset({Action.RESTART_WORKER, Action.ROLL_BACK_FEATURE})
"""There is nothing to undo."""
REPEATABLE = frozenset({Action.LOWER_LIMIT, Action.SHRINK_PREFILL, Action.EVICT_CACHES})
"""Taken again while in force, they go further in the same direction; one UNDO takes all of it back."""


class StepKind(StrEnum):
    TAKE = "TAKE"
    UNDO = "UNDO"


class Outcome(StrEnum):
    """Closed set; of an event."""

    TAKEN = "TAKEN"
    UNDONE = "UNDONE"
    HELD = "HELD"
    """Left in force though the breach has ended, because it was taken and undone too often."""
    FAILED = "FAILED"
    """The owner could not take or undo it."""
    SKIPPED = "SKIPPED"
    """Wanted, but by a cool-down or a bound not taken."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the owner is to do. subject: to what; empty for the server. cause: why, for people."""

    kind: StepKind
    action: Action
    subject: str
    cause: str

    @property
    def key(self) -> "Key":
        return self.action, self.subject


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done or not. dry_run: it was only told. at_s: when."""

    action: Action
    subject: str
    cause: str
    outcome: Outcome
    dry_run: bool
    at_s: float


Key = tuple[Action, str]
"""An action and its subject: what cool-downs and undoing go by."""
