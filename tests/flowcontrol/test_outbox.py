"""The outbox against a reference: two lists and the rules in words."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcontrol.credits import CreditWindow
from flowcontrol.outbox import Outbox


class OutboxMatchesTheReference(RuleBasedStateMachine):
    """Items are numbered, so that order, loss and repetition show."""

    @initialize(
        window=st.integers(1, 4),
        enforced=st.booleans(),
        per_chunk=st.integers(1, 5),
        extra=st.integers(0, 6),
    )
    def begin(self, window: int, enforced: bool, per_chunk: int, extra: int) -> None:
        self.credits = CreditWindow(window, enforced=enforced)
        self.per_chunk, self.backlog = per_chunk, per_chunk + extra
        self.outbox: Outbox[int] = Outbox(
            self.credits, max_items_per_chunk=per_chunk, max_backlog=self.backlog
        )
        self.pushed = 0
        self.waiting: list[int] = []

    @rule(items=st.integers(1, 4))
    def push(self, items: int) -> None:
        """Also when full: a step may be under way when the source is told to stop."""
        for _ in range(items):
            self.outbox.push(self.pushed)
            self.waiting.append(self.pushed)
            self.pushed += 1

    @rule()
    def take(self) -> None:
        before = self.credits.snapshot()
        may = bool(self.waiting) and self.credits.open
        chunk = self.outbox.take()
        assert (chunk is not None) == may
        if chunk is None:
            assert self.credits.snapshot() == before
            return
        seq, items = chunk
        assert seq == before.sent + 1
        assert self.credits.snapshot().sent == seq
        expected, self.waiting = self.waiting[: self.per_chunk], self.waiting[self.per_chunk :]
        assert items == expected

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self.credits.ack(data.draw(st.integers(0, self.credits.snapshot().sent)))

    @rule()
    def half_close(self) -> None:
        self.credits.half_close()

    @precondition(lambda self: self.waiting)
    @rule()
    def clear(self) -> None:
        self.outbox.clear()
        self.waiting = []

    @invariant()
    def signals_follow_from_what_waits(self) -> None:
        waiting, open_ = len(self.waiting), self.credits.open
        assert len(self.outbox) == waiting
        assert self.outbox.stalled == (waiting > 0 and not open_)
        most = self.backlog if open_ else self.per_chunk
        assert self.outbox.full == (waiting >= most)
        # Without credit too: the next chunk is then ready when an ack comes.
        assert self.outbox.drained == (waiting < most and waiting <= self.backlog / 2)

    @invariant()
    def source_is_never_told_to_stop_and_to_go_on_at_once(self) -> None:
        assert not (self.outbox.full and self.outbox.drained)


TestOutboxMatchesTheReference = OutboxMatchesTheReference.TestCase


@given(window=st.integers(1, 20), per_chunk=st.integers(1, 5), extra=st.integers(0, 5))
def test_a_reader_that_never_acks_gets_exactly_the_window(window: int, per_chunk: int, extra: int) -> None:
    credits = CreditWindow(window, enforced=True)
    outbox: Outbox[int] = Outbox(credits, max_items_per_chunk=per_chunk, max_backlog=per_chunk + extra)
    chunks, pushed = 0, 0
    while not (outbox.full and not credits.open):
        outbox.push(pushed)
        pushed += 1
        while outbox.take() is not None:
            chunks += 1
    assert chunks == window
    assert outbox.stalled
    assert len(outbox) == per_chunk


@given(
    window=st.integers(1, 4),
    per_chunk=st.integers(1, 4),
    extra=st.integers(0, 4),
    total=st.integers(1, 60),
    turns=st.randoms(use_true_random=False),
)
def test_a_source_that_obeys_and_a_reader_that_acks_always_come_to_the_end(
    window: int, per_chunk: int, extra: int, total: int, turns: Random
) -> None:
    """No order of turns can leave source, writer and reader waiting for each other."""
    credits = CreditWindow(window, enforced=True)
    outbox: Outbox[int] = Outbox(credits, max_items_per_chunk=per_chunk, max_backlog=per_chunk + extra)
    pushed, stopped, received = 0, False, list[int]()
    while len(received) < total:
        stopped = outbox.full or (stopped and not outbox.drained)
        possible = ["push"] * (pushed < total and not stopped)
        possible += ["take"] * (len(outbox) > 0 and credits.open)
        possible += ["ack"] * (credits.snapshot().unacked > 0)
        assert possible, "deadlock"
        turn = turns.choice(possible)
        if turn == "push":
            outbox.push(pushed)
            pushed += 1
        elif turn == "take":
            chunk = outbox.take()
            assert chunk is not None
            received += chunk[1]
        else:
            credits.ack(credits.snapshot().sent)
    assert received == list(range(total))


@pytest.mark.parametrize(("per_chunk", "backlog"), [(0, 1), (2, 1), (-1, 5)])
def test_bounds_that_cannot_work_are_refused(per_chunk: int, backlog: int) -> None:
    with pytest.raises(ValueError, match="need 1 <= max_items_per_chunk <= max_backlog"):
        Outbox(CreditWindow(1, enforced=True), max_items_per_chunk=per_chunk, max_backlog=backlog)
