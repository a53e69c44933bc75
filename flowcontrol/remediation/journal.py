"""What was done and what was not: the latest events, and counts of all."""

from collections import Counter, deque
from collections.abc import Mapping

from flowcontrol.remediation.actions import Action, Event, Outcome

LATEST = 20


class Journal:
    """Bounded: it keeps LATEST events, and one count per action and outcome."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=LATEST)
        self._counts: Counter[tuple[Action, Outcome]] = Counter()

    def note(self, event: Event) -> None:
        self._events.appendleft(event)
        self._counts[event.action, event.outcome] += 1

    def events(self) -> tuple[Event, ...]:
        """Newest first."""
        return tuple(self._events)

    def counts(self) -> Mapping[tuple[Action, Outcome], int]:
        return dict(self._counts)
