"""What waits to be written to one stream, and when its source must stop and go on."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from flowcontrol.chunk_size import ChunkSizeRule
from flowcontrol.credits import CreditWindow

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Items (one per token) between the engine and the writer of one stream.

    A chunk holds what is ready when the writer is ready, as much of it as the rule allows; no item
    waits for a chunk to fill. The source must stop when `full` and may go on when `drained`. The two
    are apart, so that a row does not leave and join the batch for every chunk.
    """

    __slots__ = (
        "_credits",
        "_found_stalled",
        "_items",
        "_max_backlog",
        "_max_bytes_per_chunk",
        "_rule",
        "_size_of",
    )

    def __init__(
        self,
        credits: CreditWindow,
        *,
        rule: ChunkSizeRule,
        max_backlog: int,
        max_bytes_per_chunk: int,
        size_of: Callable[[Item], int],
    ) -> None:
        """rule: items of a chunk. max_backlog: items that may wait while there is credit; at least rule.most.

        size_of: bytes of an item in a chunk. An item of more than max_bytes_per_chunk goes alone.
        """
        if rule.most > max_backlog:
            raise ValueError(f"max_backlog must be at least rule.most, {rule.most}, got {max_backlog}")
        if max_bytes_per_chunk < 1:
            raise ValueError(f"max_bytes_per_chunk must be at least 1, got {max_bytes_per_chunk}")
        self._credits = credits
        self._items: deque[Item] = deque()
        self._rule = rule
        self._max_backlog = max_backlog
        self._max_bytes_per_chunk = max_bytes_per_chunk
        self._size_of = size_of
        self._found_stalled = False

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: Item) -> None:
        """Add an item. Never refuses: a source that was told to stop may have one step under way."""
        self._items.append(item)

    def take(self) -> tuple[int, list[Item]] | None:
        """The next chunk as (seq, items), paid with one credit; None if nothing waits or there is none.

        The rule is applied to the window before this chunk, or to the backlog where that is fuller. A
        reader that was found without credit gets rule.most at once: the ack that reopened the window
        may have emptied it, but the reader is behind.
        """
        items = self._items
        if not items:
            return None
        alone = len(items) == 1 or self._rule.most == 1
        fill = 0.0 if alone else max(self._credits.fill, len(items) / self._max_backlog)
        seq = self._credits.spend()
        if seq is None:
            self._found_stalled = True
            return None
        found_stalled, self._found_stalled = self._found_stalled, False
        if alone:
            return seq, [items.popleft()]
        return seq, self._pop(self._rule.most if found_stalled else self._rule.tokens(fill))

    def _pop(self, most: int) -> list[Item]:
        """The first items, `most` at most, as many as fit into max_bytes_per_chunk, at least one."""
        items, size_of = self._items, self._size_of
        most = min(most, len(items))
        chunk = [items.popleft()]
        if most == 1:
            return chunk
        left_bytes = self._max_bytes_per_chunk - size_of(chunk[0])
        while len(chunk) < most:
            left_bytes -= size_of(items[0])
            if left_bytes < 0:
                break
            chunk.append(items.popleft())
        return chunk

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
        if waiting < self._rule.most:  # By far the commonest: this is asked for every token.
            return False
        return waiting >= self._max_backlog or not self._credits.open

    @property
    def drained(self) -> bool:
        """The source may go on: at most half of the backlog is used and no whole chunk waits for credit.

        Also without credit: the next chunk is then ready when an ack comes, and one that does not come
        is noticed, because something waits for it.
        """
        return not self.full and len(self._items) * 2 <= self._max_backlog
