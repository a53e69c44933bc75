"""The options of the policy, and what it tells of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowcontrol.remediation.actions import Action, Event, Outcome


@dataclass(frozen=True, slots=True)
class RemediationOptions:
    """act: whether actions are taken; otherwise they are only told. cool_down_s: between two of the same
    action on the same subject. max_actions_per_hour: undoing does not count, for it must not wait.
    max_swings: times that an action is taken and undone within an hour before it is left in force.
    max_failures: actions in a row that fail or do not help before none is taken for an hour.

    Raises ValueError unless cool_down_s is at least 0 and the others at least 1.
    """

    act: bool
    cool_down_s: float
    max_actions_per_hour: int
    max_swings: int
    max_failures: int

    def __post_init__(self) -> None:
        if self.cool_down_s < 0:
            raise ValueError(f"cool_down_s must be at least 0, got {self.cool_down_s}")
        for name in ("max_actions_per_hour", "max_swings", "max_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class RemediationSnapshot:
    """suspended: why no action is taken, or empty. active: in force, oldest first. events: the latest, newest
    first. counts: of all events.
    """

    dry_run: bool
    suspended: str
    active: tuple[Event, ...]
    events: tuple[Event, ...]
    counts: Mapping[tuple[Action, Outcome], int]
