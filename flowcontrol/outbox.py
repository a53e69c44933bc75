"""What waits to be written to one stream, and when its source must stop and go on."""

from collections import deque
from typing import Generic, TypeVar

from flowcontrol.credits import CreditWindow

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Items (one per token) between the engine and the writer of one stream.

    A chunk holds what is ready when the writer is ready, up to max_items_per_chunk; no item waits
    for a chunk to fill. The source must stop when `full` and may go on when `drained`. The two are
    apart, so that a row does not leave and join the batch for every chunk.
    """

    __slots__ = ("_credits", "_items", "_max_backlog", "_max_items_per_chunk")

    def __init__(self, credits: CreditWindow, *, max_items_per_chunk: int, max_backlog: int) -> None:
        """max_backlog: items that may wait while there is credit; at least max_items_per_chunk."""
        if not 1 <= max_items_per_chunk <= max_backlog:
            raise ValueError(
                f"need 1 <= max_items_per_chunk <= max_backlog, got {max_items_per_chunk} and {max_backlog}"
            )
        self._credits = credits
        self._items: deque[Item] = deque()
        self._max_items_per_chunk = max_items_per_chunk
        self._max_backlog = max_backlog

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: Item) -> None:
        """Add an item. Never refuses: a source that was told to stop may have one step under way."""
        self._items.append(item)

    def take(self) -> tuple[int, list[Item]] | None:
        """The next chunk as (seq, items), paid with one credit; None if nothing waits or there is none."""
        items = self._items
        if not items:
            return None
        seq = self._credits.spend()
        if seq is None:
            return None
        count = min(len(items), self._max_items_per_chunk)
        return seq, [items.popleft() for _ in range(count)]

    def clear(self) -> None:
        """Drop what waits."""
        self._items.clear()

    @property
    def stalled(self) -> bool:
        """Items wait and there is no credit to write them."""
        return bool(self._items) and not self._credits.open

    @property
    def full(self) -> bool:
        """The source must stop: the backlog is at its bound, or one whole chunk waits for credit."""
        waiting = len(self._items)
        return waiting >= self._max_backlog or (
            waiting >= self._max_items_per_chunk and not self._credits.open
        )

    @property
    def drained(self) -> bool:
        """The source may go on: at most half of the backlog is used and no whole chunk waits for credit.

        Also without credit: the next chunk is then ready when an ack comes, and one that does not come
        is noticed, because something waits for it.
        """
        return not self.full and len(self._items) * 2 <= self._max_backlog
