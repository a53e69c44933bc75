"""The parking lot against a reference list in the order of parking."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.parking import ParkingLot, ParkingSnapshot

KEYS = st.integers(0, 6)


class ParkingMatchesTheReference(RuleBasedStateMachine):
    """The reference: (key, bytes, parked since), the longest parked first."""

    @initialize(max_bytes=st.integers(0, 20), max_s=st.integers(0, 6))
    def begin(self, max_bytes: int, max_s: int) -> None:
        self.lot: ParkingLot[int] = ParkingLot(max_bytes=max_bytes, max_s=max_s)
        self.max_bytes, self.max_s = max_bytes, max_s
        self.now_s = 0
        self.parked: list[tuple[int, int, int]] = []
        self.evictions = 0

    def total(self) -> int:
        return sum(nbytes for _, nbytes, _ in self.parked)

    def remove(self, key: int) -> None:
        self.parked = [entry for entry in self.parked if entry[0] != key]

    @rule(max_bytes=st.integers(0, 20))
    def resize(self, max_bytes: int) -> None:
        expected = []
        while self.total() > max_bytes:
            expected.append(self.parked.pop(0)[0])
        self.max_bytes = max_bytes
        self.evictions += len(expected)
        assert self.lot.resize(max_bytes) == expected

    @rule(key=KEYS, nbytes=st.integers(0, 25))
    def park(self, key: int, nbytes: int) -> None:
        """Also a key that is parked already."""
        self.remove(key)
        before = [entry[0] for entry in self.parked]
        self.parked.append((key, nbytes, self.now_s))
        expected = []
        if nbytes > self.max_bytes:
            self.remove(key)
            expected.append(key)
        while self.total() > self.max_bytes:
            expected.append(self.parked.pop(0)[0])
        evicted = self.lot.park(key, nbytes, self.now_s)
        assert evicted == expected
        # Nobody is evicted twice, nor without having been parked.
        assert len(set(evicted)) == len(evicted)
        assert set(evicted) <= {*before, key}
        self.evictions += len(evicted)

    @rule(key=KEYS)
    def leave(self, key: int) -> None:
        """Also a key that is not parked."""
        self.lot.leave(key)
        self.remove(key)

    @rule(after_s=st.integers(0, 3))
    def time_passes(self, after_s: int) -> None:
        self.now_s += after_s
        due = [key for key, _, since_s in self.parked if self.max_s and self.now_s - since_s >= self.max_s]
        next_s = self.lot.next_deadline()
        # An owner that waits for the deadline misses nothing and does not wake for nothing.
        assert bool(due) == (next_s is not None and next_s <= self.now_s)
        assert self.lot.expired(self.now_s) == due
        for key in due:
            self.remove(key)
        self.evictions += len(due)
        assert self.lot.expired(self.now_s) == []

    @invariant()
    def budget_holds_and_counts_are_the_references(self) -> None:
        assert self.total() <= self.max_bytes
        assert self.lot.snapshot() == ParkingSnapshot(
            parked=len(self.parked), bytes=self.total(), evictions=self.evictions
        )
        oldest_s = self.parked[0][2] if self.parked and self.max_s else None
        assert self.lot.next_deadline() == (None if oldest_s is None else oldest_s + self.max_s)


TestParkingMatchesTheReference = ParkingMatchesTheReference.TestCase


def test_the_longest_parked_make_room_and_no_more_of_them_than_needed() -> None:
    lot: ParkingLot[str] = ParkingLot(max_bytes=10, max_s=0)
    assert [lot.park(key, 3, at_s) for at_s, key in enumerate("abc")] == [[], [], []]
    assert lot.park("d", 4, 3) == ["a"]
    assert lot.park("e", 7, 4) == ["b", "c", "d"]
    assert lot.snapshot() == ParkingSnapshot(parked=1, bytes=7, evictions=4)


def test_a_newcomer_larger_than_the_budget_costs_nobody_else_its_place() -> None:
    lot: ParkingLot[str] = ParkingLot(max_bytes=10, max_s=0)
    lot.park("a", 10, 0)
    assert lot.park("large", 11, 1) == ["large"]
    assert lot.snapshot() == ParkingSnapshot(parked=1, bytes=10, evictions=1)


def test_a_deadline_that_the_lot_names_is_one_at_which_it_acts() -> None:
    """In floating point now - since may be less than max_s at since + max_s."""
    lot: ParkingLot[str] = ParkingLot(max_bytes=1, max_s=0.1)
    lot.park("a", 1, 0.7)
    deadline_s = lot.next_deadline()
    assert deadline_s is not None
    assert lot.expired(0.75) == []
    assert lot.expired(deadline_s) == ["a"]


@pytest.mark.parametrize(("max_bytes", "max_s"), [(-1, 0), (0, -0.1)])
def test_bounds_that_cannot_work_are_refused(max_bytes: int, max_s: float) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        ParkingLot(max_bytes=max_bytes, max_s=max_s)


def test_negative_bytes_are_refused_and_change_nothing() -> None:
    lot: ParkingLot[str] = ParkingLot(max_bytes=10, max_s=0)
    lot.park("a", 3, 0)
    with pytest.raises(ValueError, match="max_bytes must not be negative, got -1"):
        lot.resize(-1)
    with pytest.raises(ValueError, match="nbytes must not be negative, got -1"):
        lot.park("a", -1, 1)
    assert lot.snapshot() == ParkingSnapshot(parked=1, bytes=3, evictions=0)
