"""Credits against a reference that remembers the state of every single chunk."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcontrol.credits import AckBeyondSentError, CreditSnapshot, CreditWindow


class CreditsMatchTheReference(RuleBasedStateMachine):
    """The reference is one flag per chunk sent: is it settled?"""

    @initialize(window=st.integers(1, 6), enforced=st.booleans(), last_seq=st.integers(0, 9))
    def begin(self, window: int, enforced: bool, last_seq: int) -> None:
        self.credits = CreditWindow(window, enforced=enforced, last_seq=last_seq)
        self.window = window
        self.enforced = enforced
        # What was sent before a cut is settled: the caller says that it holds it.
        self.settled = [True] * last_seq

    @property
    def unsettled(self) -> int:
        return self.settled.count(False)

    def may_send(self) -> bool:
        return not self.enforced or self.unsettled < self.window

    @precondition(lambda self: self.may_send())
    @rule()
    def send(self) -> None:
        self.settled.append(False)
        assert self.credits.spend() == len(self.settled)

    @precondition(lambda self: not self.may_send())
    @rule()
    def refused_send_changes_nothing(self) -> None:
        before = self.credits.snapshot()
        assert self.credits.spend() is None
        assert self.credits.snapshot() == before

    @rule(data=st.data())
    def ack_in_any_order(self, data: st.DataObject) -> None:
        """Lost acks are those never drawn; repeated and reordered ones come by themselves."""
        seq = data.draw(st.integers(0, len(self.settled)))
        newly = self.settled[:seq].count(False)
        self.settled[:seq] = [True] * seq
        assert self.credits.ack(seq) == newly

    @rule(beyond=st.integers(1, 2**63))
    def future_ack_is_refused_and_changes_nothing(self, beyond: int) -> None:
        before = self.credits.snapshot()
        with pytest.raises(AckBeyondSentError) as refused:
            self.credits.ack(before.sent + beyond)
        assert (refused.value.seq, refused.value.sent) == (before.sent + beyond, before.sent)
        assert self.credits.snapshot() == before

    @rule()
    def half_close(self) -> None:
        self.credits.half_close()
        self.enforced = False

    @invariant()
    def counts_are_the_references(self) -> None:
        snapshot = self.credits.snapshot()
        assert snapshot == CreditSnapshot(
            window=self.window,
            enforced=self.enforced,
            sent=len(self.settled),
            acked=self.settled.count(True),
        )
        assert snapshot.unacked == self.unsettled
        assert self.credits.open == self.may_send()
        assert self.credits.fill == (self.unsettled / self.window if self.enforced else 0)

    @invariant()
    def window_holds_while_enforced(self) -> None:
        snapshot = self.credits.snapshot()
        if self.enforced:
            assert snapshot.unacked <= self.window
            assert self.credits.open == (snapshot.credit > 0)
        assert snapshot.credit == max(0, self.window - self.unsettled)


TestCreditsMatchTheReference = CreditsMatchTheReference.TestCase


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_has_at_least_one_chunk(window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CreditWindow(window, enforced=True)


def test_a_continued_stream_has_a_last_seq() -> None:
    with pytest.raises(ValueError, match="last_seq must not be negative, got -1"):
        CreditWindow(1, enforced=True, last_seq=-1)


def test_a_stream_begins_with_seq_1_and_a_continued_one_after_its_last_seq() -> None:
    assert CreditWindow(1, enforced=True).spend() == 1
    continued = CreditWindow(2, enforced=True, last_seq=7)
    assert continued.snapshot().credit == 2
    assert [continued.spend(), continued.spend(), continued.spend()] == [8, 9, None]


def test_errors_say_what_was_wrong() -> None:
    credits = CreditWindow(1, enforced=True)
    credits.spend()
    assert credits.spend() is None
    with pytest.raises(AckBeyondSentError, match=r"ack\.seq 2 is beyond the last chunk sent, 1"):
        credits.ack(2)


def test_credit_is_never_negative_after_sending_beyond_the_window() -> None:
    credits = CreditWindow(1, enforced=False)
    for _ in range(5):
        credits.spend()
    assert credits.snapshot().credit == 0
    assert credits.snapshot().unacked == 5
