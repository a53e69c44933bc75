"""The outbox against a reference: two lists and the rules in words."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcontrol.chunk_size import ChunkSizeRule
from flowcontrol.credits import CreditWindow
from flowcontrol.outbox import Outbox


def size_of(item: int) -> int:
    """Items are numbers; some take no bytes, and some more than a chunk may have."""
    return item % 4


def outbox_of(
    credits: CreditWindow, *, least: int = 1, most: int, backlog: int, max_bytes: int = 1000
) -> Outbox[int]:
    return Outbox(
        credits,
        rule=ChunkSizeRule(least=least, most=most),
        max_backlog=backlog,
        max_bytes_per_chunk=max_bytes,
        size_of=size_of,
    )


class OutboxMatchesTheReference(RuleBasedStateMachine):
    """Items are numbered, so that order, loss and repetition show."""

    @initialize(
        window=st.integers(1, 4),
        enforced=st.booleans(),
        least=st.integers(1, 3),
        span=st.integers(0, 4),
        extra=st.integers(0, 6),
        max_bytes=st.integers(1, 12),
    )
    def begin(self, window: int, enforced: bool, least: int, span: int, extra: int, max_bytes: int) -> None:
        self.credits = CreditWindow(window, enforced=enforced)
        self.sizes = ChunkSizeRule(least=least, most=least + span)
        self.backlog, self.max_bytes = self.sizes.most + extra, max_bytes
        self.outbox = outbox_of(
            self.credits, least=least, most=self.sizes.most, backlog=self.backlog, max_bytes=max_bytes
        )
        self.pushed = 0
        self.waiting: list[int] = []
        self.found_stalled = False

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
        count = self.items_of_the_next_chunk()
        chunk = self.outbox.take()
        assert (chunk is not None) == may
        if chunk is None:
            self.found_stalled = self.found_stalled or bool(self.waiting)
            assert self.credits.snapshot() == before
            return
        seq, items = chunk
        self.found_stalled = False
        assert seq == before.sent + 1
        assert self.credits.snapshot().sent == seq
        expected, self.waiting = self.waiting[:count], self.waiting[count:]
        assert items == expected

    def items_of_the_next_chunk(self) -> int:
        """The longest start of what waits that is within both bounds, and at least one item."""
        credits = self.credits.snapshot()
        fill = max(
            credits.unacked / credits.window if credits.enforced else 0, len(self.waiting) / self.backlog
        )
        most = self.sizes.most if self.found_stalled else self.sizes.tokens(fill)
        fits = [n for n in range(most + 1) if sum(map(size_of, self.waiting[:n])) <= self.max_bytes]
        return max(1, *fits)

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
        most = self.backlog if open_ else self.sizes.most
        assert self.outbox.full == (waiting >= most)
        # Without credit too: the next chunk is then ready when an ack comes.
        assert self.outbox.drained == (waiting < most and waiting <= self.backlog / 2)

    @invariant()
    def source_is_never_told_to_stop_and_to_go_on_at_once(self) -> None:
        assert not (self.outbox.full and self.outbox.drained)


TestOutboxMatchesTheReference = OutboxMatchesTheReference.TestCase


@given(window=st.integers(1, 20), most=st.integers(1, 5), extra=st.integers(0, 5))
def test_a_reader_that_never_acks_gets_exactly_the_window(window: int, most: int, extra: int) -> None:
    credits = CreditWindow(window, enforced=True)
    outbox = outbox_of(credits, most=most, backlog=most + extra)
    chunks, pushed = 0, 0
    while not (outbox.full and not credits.open):
        outbox.push(pushed)
        pushed += 1
        while outbox.take() is not None:
            chunks += 1
    assert chunks == window
    assert outbox.stalled
    assert len(outbox) == most


@given(
    window=st.integers(1, 4),
    most=st.integers(1, 4),
    extra=st.integers(0, 4),
    total=st.integers(1, 60),
    turns=st.randoms(use_true_random=False),
)
def test_a_source_that_obeys_and_a_reader_that_acks_always_come_to_the_end(
    window: int, most: int, extra: int, total: int, turns: Random
) -> None:
    """No order of turns can leave source, writer and reader waiting for each other."""
    credits = CreditWindow(window, enforced=True)
    outbox = outbox_of(credits, most=most, backlog=most + extra, max_bytes=2)
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


def take_sizes(outbox: Outbox[int]) -> list[int]:
    """Take all that may be taken; the numbers of items of the chunks."""
    sizes = []
    while (chunk := outbox.take()) is not None:
        sizes.append(len(chunk[1]))
    return sizes


def push_all(outbox: Outbox[int], count: int) -> None:
    for item in range(count):
        outbox.push(item)


def test_a_reader_that_keeps_up_gets_one_token_per_chunk() -> None:
    credits = CreditWindow(20, enforced=True)
    outbox = outbox_of(credits, most=64, backlog=256)
    for step in range(50):
        # Two tokens are ready at once now and then; that is no reason for larger chunks.
        push_all(outbox, 2 if step % 10 == 0 else 1)
        assert set(take_sizes(outbox)) == {1}
        credits.ack(credits.snapshot().sent)


def test_chunks_grow_as_the_window_fills() -> None:
    outbox = outbox_of(CreditWindow(10, enforced=True), most=9, backlog=1000)
    push_all(outbox, 60)
    # 0 of 10 unacked, then 1 of 10, and so on: 1 + 8 * (fill - 0.1) / 0.7, rounded down.
    assert take_sizes(outbox) == [1, 1, 2, 3, 4, 5, 6, 7, 9, 9]


def test_chunks_grow_with_the_backlog_where_no_credits_are_enforced() -> None:
    outbox = outbox_of(CreditWindow(1, enforced=False), most=9, backlog=20)
    push_all(outbox, 20)
    # 20 of 20 wait, then 11 of 20, 5 of 20 and so on.
    assert take_sizes(outbox) == [9, 6, 2, 1, 1, 1]


def test_the_first_chunk_after_a_stall_is_as_large_as_may_be() -> None:
    """The reader reads all at once and acks: its window is empty, but it is not at the front."""
    credits = CreditWindow(4, enforced=True)
    outbox = outbox_of(credits, most=8, backlog=100)
    push_all(outbox, 40)
    take_sizes(outbox)
    credits.ack(4)
    after_stall, next_one = outbox.take(), outbox.take()
    assert after_stall is not None
    assert next_one is not None
    assert len(after_stall[1]) == 8
    assert len(next_one[1]) < 8


def test_a_chunk_stays_within_its_bytes_and_an_item_is_never_split() -> None:
    outbox: Outbox[str] = Outbox(
        CreditWindow(1, enforced=False),
        rule=ChunkSizeRule(least=10, most=10),
        max_backlog=100,
        max_bytes_per_chunk=4,
        size_of=len,
    )
    for text in ["ab", "cd", "e", "too large for it", "", "fghi", "j"]:
        outbox.push(text)
    chunks = []
    while (chunk := outbox.take()) is not None:
        chunks.append(chunk[1])
    assert chunks == [["ab", "cd"], ["e"], ["too large for it"], ["", "fghi"], ["j"]]


def test_the_size_of_an_item_that_goes_alone_is_not_asked() -> None:
    def not_asked(item: str) -> int:
        raise AssertionError(item)

    outbox: Outbox[str] = Outbox(
        CreditWindow(9, enforced=True),
        rule=ChunkSizeRule(least=1, most=9),
        max_backlog=100,
        max_bytes_per_chunk=1,
        size_of=not_asked,
    )
    outbox.push("alone in the outbox")
    assert outbox.take() == (1, ["alone in the outbox"])
    outbox.push("alone by the rule")
    outbox.push("waits")
    assert outbox.take() == (2, ["alone by the rule"])


@pytest.mark.parametrize(
    ("most", "backlog", "max_bytes", "fault"),
    [(2, 1, 1, "max_backlog must be at least rule.most, 2, got 1"), (1, 1, 0, "max_bytes_per_chunk")],
)
def test_bounds_that_cannot_work_are_refused(most: int, backlog: int, max_bytes: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        outbox_of(CreditWindow(1, enforced=True), most=most, backlog=backlog, max_bytes=max_bytes)
