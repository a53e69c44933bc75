"""The pool against a reference that follows every item that was ever made."""

from weakref import WeakSet

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcontrol.pool import Lease, LeaseReleasedError, Pool, PoolSnapshot


class Message:
    """An item that counts its uses."""

    def __init__(self) -> None:
        self.uses = 0


class Factory:
    """Makes messages and knows which of them are alive."""

    def __init__(self) -> None:
        self.made = 0
        self.alive: WeakSet[Message] = WeakSet()

    def __call__(self) -> Message:
        message = Message()
        self.made += 1
        self.alive.add(message)
        return message


class PoolMatchesTheReference(RuleBasedStateMachine):
    """The reference keeps the leases with whether the pool owns their item, and the number of idle items."""

    @initialize(size=st.integers(1, 4), max_uses=st.integers(1, 4))
    def begin(self, size: int, max_uses: int) -> None:
        self.factory = Factory()
        self.pool: Pool[Message] = Pool(self.factory, size=size, max_uses=max_uses)
        self.size, self.max_uses = size, max_uses
        self.lent: list[tuple[Lease[Message], bool]] = []
        self.released: list[Lease[Message]] = []
        self.idle = self.fewest_idle = 0
        self.hits = self.misses = self.trimmed = 0

    def owned(self) -> int:
        return self.idle + sum(owned for _, owned in self.lent)

    @rule()
    def lease(self) -> None:
        if self.idle:
            self.idle -= 1
            self.hits += 1
            owned = True
        else:
            owned = self.owned() < self.size
            self.misses += 1
        self.fewest_idle = min(self.fewest_idle, self.idle)
        self.lent.append((self.pool.lease(), owned))

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), uses=st.integers(1, 3))
    def use(self, data: st.DataObject, uses: int) -> None:
        lease, _ = data.draw(st.sampled_from(self.lent))
        for _ in range(uses):
            message = lease.use()
            message.uses += 1
            assert message.uses <= self.max_uses
        del message

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease, owned = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
        lease.release()
        self.released.append(lease)
        self.idle += owned

    @precondition(lambda self: self.released)
    @rule(data=st.data())
    def released_lease_is_refused_and_changes_nothing(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.released))
        before = self.pool.snapshot()
        with pytest.raises(LeaseReleasedError):
            lease.release()
        with pytest.raises(LeaseReleasedError):
            lease.use()
        assert self.pool.snapshot() == before

    @rule()
    def trim(self) -> None:
        surplus = self.fewest_idle
        assert self.pool.trim() == surplus
        self.idle -= surplus
        self.trimmed += surplus
        self.fewest_idle = self.idle

    @invariant()
    def counts_are_the_references(self) -> None:
        assert self.pool.snapshot() == PoolSnapshot(
            size=self.size,
            in_use=len(self.lent),
            idle=self.idle,
            hits=self.hits,
            misses=self.misses,
            # Made for a lease or in place of a retired one: there is no third reason.
            retired=self.factory.made - self.misses,
            trimmed=self.trimmed,
        )

    @invariant()
    def pool_is_bounded_and_nothing_else_keeps_an_item(self) -> None:
        snapshot = self.pool.snapshot()
        assert self.owned() <= self.size
        assert len(self.factory.alive) == snapshot.in_use + snapshot.idle

    def teardown(self) -> None:
        for lease, _ in self.lent:
            lease.release()
        assert self.pool.snapshot().in_use == 0
        assert self.pool.snapshot().idle <= self.size
        # The first trim only begins an interval in which nothing is needed.
        self.pool.trim()
        self.pool.trim()
        assert self.pool.snapshot().idle == 0
        self.lent.clear()
        assert len(self.factory.alive) == 0


TestPoolMatchesTheReference = PoolMatchesTheReference.TestCase


def test_a_lease_keeps_its_item_until_it_is_retired() -> None:
    pool = Pool(Message, size=1, max_uses=3)
    lease = pool.lease()
    first = [lease.use() for _ in range(3)]
    second = [lease.use() for _ in range(3)]
    assert len({*first}) == len({*second}) == 1
    assert first[0] is not second[0]
    assert pool.snapshot().retired == 1


def test_uses_count_over_leases() -> None:
    """Otherwise short streams would use one item for ever, and it would grow for ever."""
    factory = Factory()
    pool = Pool(factory, size=1, max_uses=4)
    for _ in range(10):
        lease = pool.lease()
        lease.use()
        lease.use()
        lease.release()
    assert factory.made == 5
    assert pool.snapshot() == PoolSnapshot(size=1, in_use=0, idle=1, hits=9, misses=1, retired=4, trimmed=0)


def test_two_leases_never_share_an_item() -> None:
    pool = Pool(Message, size=2, max_uses=2)
    leases = [pool.lease() for _ in range(5)]
    assert len({lease.use() for lease in leases}) == 5


def test_a_retired_item_keeps_its_slot_for_the_next() -> None:
    pool = Pool(Message, size=1, max_uses=1)
    lease = pool.lease()
    for _ in range(5):
        lease.use()
    lease.release()
    assert pool.snapshot().idle == 1
    pool.lease()
    assert pool.snapshot().hits == 1


def test_trim_keeps_what_was_needed_in_the_interval() -> None:
    pool = Pool(Message, size=8, max_uses=100)
    for lease in [pool.lease() for _ in range(6)]:
        lease.release()
    assert pool.trim() == 0, "all six were in use since the last trim"
    for lease in [pool.lease() for _ in range(2)]:
        lease.release()
    assert pool.trim() == 4
    assert pool.snapshot().idle == 2
    assert pool.trim() == 2


class FailingFactory:
    """Makes one message and then fails."""

    def __init__(self) -> None:
        self.left = 1

    def __call__(self) -> Message:
        if not self.left:
            raise MemoryError
        self.left -= 1
        return Message()


def test_a_failure_to_make_an_item_changes_nothing() -> None:
    pool = Pool(FailingFactory(), size=2, max_uses=1)
    lease = pool.lease()
    lease.use()
    before = pool.snapshot()
    with pytest.raises(MemoryError):
        pool.lease()
    with pytest.raises(MemoryError):
        lease.use()
    assert pool.snapshot() == before
    lease.release()
    assert pool.snapshot().in_use == 0


@pytest.mark.parametrize(("size", "max_uses"), [(0, 1), (1, 0)])
def test_bounds_that_cannot_work_are_refused(size: int, max_uses: int) -> None:
    with pytest.raises(ValueError, match="size and max_uses must be at least 1"):
        Pool(Message, size=size, max_uses=max_uses)
