"""Who keeps a KV cache while its reader is stalled, and who has to give it up."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ParkingSnapshot:
    """parked: keys in the lot. bytes: what they keep together.

    evictions: how often a key had to give up its bytes so far, for the budget or for its time.
    """

    parked: int
    bytes: int
    evictions: int


class ParkingLot(Generic[Key]):
    """Keys with the bytes that they keep, within a budget of bytes and of time.

    Decides only: the owner frees the memory of every key that `park` or `expired` returns. Such a key
    is out of the lot by then. The caller's clock never goes back.
    """

    __slots__ = ("_bytes", "_evictions", "_max_bytes", "_max_s", "_parked")

    def __init__(self, *, max_bytes: int, max_s: float) -> None:
        """max_bytes: what all keys may keep together. max_s: how long each may; 0 for no limit."""
        if max_bytes < 0 or max_s < 0:
            raise ValueError(f"max_bytes and max_s must not be negative, got {max_bytes} and {max_s}")
        self._max_bytes = max_bytes
        self._max_s = max_s
        # In the order of parking: (bytes, parked since).
        self._parked: dict[Key, tuple[int, float]] = {}
        self._bytes = 0
        self._evictions = 0

    def park(self, key: Key, nbytes: int, now_s: float) -> list[Key]:
        """Let key keep nbytes, and return who must give up its bytes now, the longest parked first.

        That is the newcomer alone when it is larger than the whole budget. A key that is parked
        already is parked anew.
        """
        if nbytes < 0:
            raise ValueError(f"nbytes must not be negative, got {nbytes}")
        self.leave(key)
        if nbytes > self._max_bytes:
            self._evictions += 1
            return [key]
        self._parked[key] = (nbytes, now_s)
        self._bytes += nbytes
        return self._evict_beyond()

    def resize(self, max_bytes: int) -> list[Key]:
        """Another budget from now on. Returns who must give up its bytes for it, the longest parked first."""
        if max_bytes < 0:
            raise ValueError(f"max_bytes must not be negative, got {max_bytes}")
        self._max_bytes = max_bytes
        return self._evict_beyond()

    def leave(self, key: Key) -> None:
        """The key goes on or has ended; nothing if it is not parked."""
        nbytes, _ = self._parked.pop(key, (0, 0.0))
        self._bytes -= nbytes

    def expired(self, now_s: float) -> list[Key]:
        """Who must give up its bytes now for having been parked for max_s or longer."""
        evicted: list[Key] = []
        while (deadline_s := self.next_deadline()) is not None and deadline_s <= now_s:
            evicted.append(self._evict_oldest())
        return evicted

    def next_deadline(self) -> float | None:
        """When `expired` must be asked next, or None when time takes nobody's place."""
        if not self._max_s or not self._parked:
            return None
        _, since_s = next(iter(self._parked.values()))
        return since_s + self._max_s

    def snapshot(self) -> ParkingSnapshot:
        return ParkingSnapshot(parked=len(self._parked), bytes=self._bytes, evictions=self._evictions)

    def _evict_beyond(self) -> list[Key]:
        evicted: list[Key] = []
        while self._bytes > self._max_bytes:
            evicted.append(self._evict_oldest())
        return evicted

    def _evict_oldest(self) -> Key:
        key = next(iter(self._parked))
        self.leave(key)
        self._evictions += 1
        return key
