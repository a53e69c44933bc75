"""Ack times against a reference that keeps when every chunk was sent."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.ack_times import LATEST_ACKS, AckTimes


class AckTimesMatchTheReference(RuleBasedStateMachine):
    """Times are whole seconds, so that sums are exact."""

    @initialize(threshold_s=st.integers(0, 5), last_seq=st.integers(0, 9))
    def begin(self, threshold_s: int, last_seq: int) -> None:
        self.times = AckTimes(threshold_s)
        self.threshold_s = threshold_s
        self.now_s = 100
        self.sent_s: dict[int, int] = {}
        self.last_seq = self.acked_seq = last_seq
        self.ack_times_s: list[int] = []
        self.was_slow = False
        self.cleared = False

    @rule(after_s=st.integers(0, 4))
    def time_passes(self, after_s: int) -> None:
        self.now_s += after_s

    @rule()
    def send(self) -> None:
        self.last_seq += 1
        self.sent_s[self.last_seq] = self.now_s
        self.times.sent(self.last_seq, self.now_s)

    @rule(data=st.data())
    def ack_in_any_order(self, data: st.DataObject) -> None:
        """Also again, and beyond what was sent."""
        seq = data.draw(st.integers(0, self.last_seq + 2))
        counts = not self.cleared and self.acked_seq < seq <= self.last_seq
        if counts:
            self.acked_seq = seq
            self.ack_times_s.append(self.now_s - self.sent_s[seq])
        found_now = counts and not self.was_slow and self.mean() > self.threshold_s
        self.was_slow = self.was_slow or found_now
        assert self.times.acked(seq, self.now_s) == found_now

    @rule()
    def clear(self) -> None:
        self.times.clear()
        self.cleared = True

    def mean(self) -> float:
        latest = self.ack_times_s[-LATEST_ACKS:]
        return sum(latest) / len(latest)

    @invariant()
    def mean_is_the_references(self) -> None:
        assert self.times.mean_s == (self.mean() if self.ack_times_s else None)
        assert self.times.slow == self.was_slow


TestAckTimesMatchTheReference = AckTimesMatchTheReference.TestCase


def test_a_reader_that_acks_half_windows_at_once_is_not_slow() -> None:
    """Chunks come each 0.1 s, 16 to an ack: the first of them waits 1.5 s, the one that is named does not."""
    times = AckTimes(threshold_s=0.5)
    for seq in range(1, 161):
        times.sent(seq, seq * 0.1)
        if seq % 16 == 0:
            assert not times.acked(seq, seq * 0.1 + 0.01)
    assert not times.slow
    assert times.mean_s == pytest.approx(0.01)


def test_a_slow_reader_is_found_once_and_stays_found() -> None:
    times = AckTimes(threshold_s=0.5)
    found = []
    for seq in range(1, 30):
        times.sent(seq, seq)
        found.append(times.acked(seq, seq + (0.125 if seq <= 8 or seq > 16 else 0.875)))
    assert found.count(True) == 1
    # 4 late acks of the latest 8 give a mean of 0.5, which is not above the threshold; 5 are.
    assert found.index(True) + 1 == 13
    assert times.slow
    assert times.mean_s == 0.125


def test_nothing_is_kept_for_chunks_that_no_ack_will_settle() -> None:
    times = AckTimes(threshold_s=0.5)
    times.sent(1, 0.0)
    times.clear()
    times.sent(2, 0.0)
    assert not times.acked(2, 1000.0)
    assert times.mean_s is None
