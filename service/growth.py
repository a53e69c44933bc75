"""By how much counters have grown, when their owners may begin anew."""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Growth(Generic[Key]):
    """By how much counters have grown since the last look, each by its own key.

    One that is lower than before belongs to a new life: all of it is new.
    """

    def __init__(self) -> None:
        self._last: dict[Key, float] = {}

    def take(self, values: Mapping[Key, float]) -> dict[Key, float]:
        """values: of all there are; those of keys that are gone are forgotten."""
        last, self._last = self._last, dict(values)
        return {
            key: value - last[key] if value >= last.get(key, value + 1) else value
            for key, value in values.items()
        }
