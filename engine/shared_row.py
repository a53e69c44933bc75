"""One row of an engine whose events go to several subscribers."""

from collections.abc import Callable
from typing import assert_never

import msgspec

from engine.contract import EventSink
from engine.events import Assigned, Event, Failed, Finished, Interrupted, Prefill, Token


class Subscriber:
    """One of those who share a row.

    number: what its events carry. position: events of the row's list that it has had. gone: it wants no more,
    or has had all.
    """

    __slots__ = ("assigned", "gone", "number", "paused", "position", "prefill", "row", "sink")

    def __init__(self, number: int, row: "SharedRow", sink: EventSink) -> None:
        self.number = number
        self.row = row
        self.sink = sink
        self.paused = False
        self.gone = False
        self.position = 0
        self.prefill: Prefill | None = None
        """The latest that it was told of."""
        self.assigned: Assigned | None = None

    @property
    def at_the_end(self) -> bool:
        """Whether it has had all that is there."""
        return self.position == len(self.row.events)


class SharedRow:
    """The events of a row, kept until the last subscriber has taken them, and how far each one is.

    A subscriber that is neither paused nor new is at the end of the list whenever nothing is being given.
    on_end: called when the engine has ended the row, before anybody is told. on_gone: called with each
    subscriber that is about to have the end.
    """

    def __init__(
        self, key: bytes, *, on_end: Callable[["SharedRow"], None], on_gone: Callable[[Subscriber], None]
    ) -> None:
        self.key = key
        self.stream = 0
        """Its number at the engine."""
        self.events: list[Token | Finished | Failed] = []
        self.subscribers: list[Subscriber] = []
        self.ended = False
        self.paused = False
        """Whether the engine was told so."""
        self._prefill: Prefill | None = None
        self._assigned: Assigned | None = None
        self._on_end = on_end
        self._on_gone = on_gone

    @property
    def wanted(self) -> bool:
        """Whether somebody wants more of it now."""
        return not all(subscriber.paused for subscriber in self.subscribers)

    def take(self, event: Event) -> None:
        """The sink of the engine."""
        match event:
            case Prefill():
                self._take_prefill(event)
            case Assigned():
                self._assigned = event
                for subscriber in tuple(self.subscribers):
                    self._give_assigned(subscriber)
            case Interrupted():
                self._assigned = None
                for subscriber in tuple(self.subscribers):
                    if not subscriber.gone:
                        subscriber.sink(Interrupted(subscriber.number))
            case Token() | Finished() | Failed():
                self.events.append(event)
                if not isinstance(event, Token):
                    self.ended = True
                    self._on_end(self)
                for subscriber in tuple(self.subscribers):
                    self.give(subscriber)
            case _:
                assert_never(event)

    def give(self, subscriber: Subscriber) -> None:
        """Give it what it has not had, until it pauses or goes. The end alone is also for one that pauses."""
        if subscriber.position == 0:
            self._give_assigned(subscriber)
            self._give_prefill(subscriber)
        while not (subscriber.gone or subscriber.at_the_end):
            event = self.events[subscriber.position]
            if not isinstance(event, Token):
                self._on_gone(subscriber)
            elif subscriber.paused:
                return
            subscriber.position += 1
            subscriber.sink(_renumbered(event, subscriber.number))

    def _give_assigned(self, subscriber: Subscriber) -> None:
        """The worker that has the row, if the subscriber has not been told of it."""
        latest = self._assigned
        if latest is None or subscriber.assigned is latest or subscriber.gone:
            return
        subscriber.assigned = latest
        subscriber.sink(_renumbered(latest, subscriber.number))

    def _take_prefill(self, event: Prefill) -> None:
        if not self.events:
            self._prefill = event
        for subscriber in tuple(self.subscribers):
            # After a failover, what is computed again is no news to one who is still being given the tokens.
            if not self.events:
                self._give_prefill(subscriber)
            elif not (subscriber.paused or subscriber.gone) and subscriber.at_the_end:
                subscriber.sink(_renumbered(event, subscriber.number))

    def _give_prefill(self, subscriber: Subscriber) -> None:
        """The latest one before the first token, if it is new to the subscriber."""
        latest = self._prefill
        if latest is None or subscriber.prefill is latest or subscriber.paused or subscriber.gone:
            return
        subscriber.prefill = latest
        subscriber.sink(_renumbered(latest, subscriber.number))


def _renumbered(event: Prefill | Token | Finished | Failed | Assigned, number: int) -> Event:
    """The same for another stream number."""
    if isinstance(event, Token):  # By far the commonest.
        return Token(number, event.token_id, event.text, event.logprobs)
    return msgspec.structs.replace(event, stream=number)
