"""A bounded pool of objects that are overwritten instead of made anew."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LeaseReleasedError(RuntimeError):
    """A lease was used or released after its release. The pool is unchanged."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """size: most items that the pool owns, lent and idle together. in_use: leases that are out.

    hits: leases served with an idle item; misses: those for which an item was made, with or without
    room in the pool. retired: items given up for their uses; trimmed: those given up by trim.
    """

    size: int
    in_use: int
    idle: int
    hits: int
    misses: int
    retired: int
    trimmed: int


class Lease(Generic[Item]):
    """One item lent to one holder, until `release`. Made by Pool.lease.

    The item that `use` gives is the holder's until its next `use` or its release; whoever keeps it for
    longer sees it overwritten.
    """

    __slots__ = ("_item", "_owned", "_pool", "_released", "_uses_left")

    def __init__(self, pool: "Pool[Item]", item: Item, *, uses_left: int, owned: bool) -> None:
        self._pool = pool
        self._item = item
        self._uses_left = uses_left
        self._owned = owned
        self._released = False

    def use(self) -> Item:
        """The item to overwrite now. Raises LeaseReleasedError after release."""
        if not self._uses_left:
            self._renew()
        self._uses_left -= 1
        return self._item

    def release(self) -> None:
        """Give the item back. Raises LeaseReleasedError the second time."""
        self._check_held()
        self._pool._take_back(self._item, self._uses_left, owned=self._owned)
        self._released = True
        # A use after release then goes the slow way, which refuses it.
        self._uses_left = 0
        # A holder that keeps the lease must not keep an item that the pool gave up.
        del self._item

    def _renew(self) -> None:
        self._check_held()
        self._item = self._pool._replacement()
        self._uses_left = self._pool._max_uses

    def _check_held(self) -> None:
        if self._released:
            raise LeaseReleasedError("this lease was released before")


class Pool(Generic[Item]):
    """Lends items, `size` of them at most; a lease beyond that gets an item that is dropped at release.

    An item is retired after max_uses uses, for items that grow a little with each.
    """

    def __init__(self, make: Callable[[], Item], *, size: int, max_uses: int) -> None:
        """make: a new item. size and max_uses: at least 1."""
        if size < 1 or max_uses < 1:
            raise ValueError(f"size and max_uses must be at least 1, got {size} and {max_uses}")
        self._make = make
        self._size = size
        self._max_uses = max_uses
        # (item, uses left). The last released is lent first, so what is not needed stays at the front.
        self._idle: list[tuple[Item, int]] = []
        self._fewest_idle = 0
        self._owned = 0
        self._in_use = 0
        self._hits = 0
        self._misses = 0
        self._retired = 0
        self._trimmed = 0

    def lease(self) -> Lease[Item]:
        """Lend an item; never refuses. The holder must release the lease."""
        if self._idle:
            item, uses_left = self._idle.pop()
            self._fewest_idle = min(self._fewest_idle, len(self._idle))
            owned = True
            self._hits += 1
        else:
            item, uses_left = self._make(), self._max_uses
            owned = self._owned < self._size
            self._owned += owned
            self._misses += 1
        self._in_use += 1
        return Lease(self, item, uses_left=uses_left, owned=owned)

    def trim(self) -> int:
        """Give up the items that were idle all the time since the last trim, and return their number."""
        surplus = self._fewest_idle
        del self._idle[:surplus]
        self._owned -= surplus
        self._trimmed += surplus
        self._fewest_idle = len(self._idle)
        return surplus

    def snapshot(self) -> PoolSnapshot:
        return PoolSnapshot(
            size=self._size,
            in_use=self._in_use,
            idle=len(self._idle),
            hits=self._hits,
            misses=self._misses,
            retired=self._retired,
            trimmed=self._trimmed,
        )

    def _take_back(self, item: Item, uses_left: int, *, owned: bool) -> None:
        self._in_use -= 1
        if owned:
            self._idle.append((item, uses_left))

    def _replacement(self) -> Item:
        item = self._make()
        self._retired += 1
        return item
