"""A stream against a model of its client and its engine, in whatever order things happen."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flowcontrol.reasons import Reason
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2 as pb
from service.errors import ServiceError
from tests.service.drivers import OPTIONS, START_S, StreamDriver, counted, scripted_engine

MAX_TOKENS = 120


class StreamMachine(RuleBasedStateMachine):
    """acked, half_closed, cancelled: what the client has done. What it received is in driver.answer."""

    driver: StreamDriver

    def __init__(self) -> None:
        super().__init__()
        self.acked = 0
        self.half_closed = False
        self.cancelled = False

    @initialize(
        window=st.integers(1, 6),
        most=st.integers(1, 5),
        backlog=st.integers(5, 20),
        tokens=st.integers(1, MAX_TOKENS),
    )
    def begin(self, window: int, most: int, backlog: int, tokens: int) -> None:
        self.window, self.backlog, self.tokens = window, backlog, tokens
        engine = scripted_engine()
        asyncio.run(engine.start())
        flow = {"max_unacked_chunks": window, "max_tokens_per_chunk": most}
        options = {"max_backlog_tokens": backlog}
        self.driver = StreamDriver(engine, flow, options=options, stopping={"max_tokens": tokens})

    @property
    def sent(self) -> int:
        return len(self.driver.answer.chunks)

    @property
    def waiting(self) -> int:
        generated = self.driver.engine.snapshot().counters.generated_tokens
        return generated - len(self.driver.answer.token_ids)

    @rule(steps=st.integers(1, 30))
    def decode(self, steps: int) -> None:
        self.driver.step(steps)

    @precondition(lambda self: not self.driver.stream.ended)
    @rule()
    def write_one(self) -> None:
        self.driver.write()

    @rule()
    def write_all(self) -> None:
        self.driver.write_all()

    @precondition(lambda self: not self.half_closed)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(0, self.sent), label="seq")
        self.driver.stream.take_ack(seq)
        self.acked = max(self.acked, seq)

    @precondition(lambda self: not self.half_closed)
    @rule(beyond=st.integers(1, 2**40))
    def ack_of_the_future(self, beyond: int) -> None:
        before = self.driver.stream.credits()
        with pytest.raises(ServiceError) as caught:
            self.driver.stream.take_ack(self.sent + beyond)
        assert caught.value.reason is Reason.ACK_BEYOND_SENT
        assert self.driver.stream.credits() == before

    @rule(seconds=st.integers(0, 10))
    def time_passes(self, seconds: int) -> None:
        self.driver.clock.now_s += seconds

    @precondition(lambda self: self.sent > 3)
    @rule()
    def half_close(self) -> None:
        self.half_closed = True
        self.driver.stream.take_half_close()

    @precondition(lambda self: self.sent > 5 and not self.driver.stream.ended)
    @rule()
    def cancel(self) -> None:
        self.cancelled = True
        self.driver.stream.take_cancel()
        assert not self.driver.running
        assert not self.driver.paused

    @invariant()
    def text_is_what_was_produced(self) -> None:
        answer = self.driver.answer
        assert answer.text == counted(len(answer.token_ids))
        assert answer.token_ids == list(range(1, len(answer.token_ids) + 1))

    @invariant()
    def never_more_unacked_than_the_window(self) -> None:
        assert self.half_closed or self.sent - self.acked <= self.window

    @invariant()
    def what_waits_is_bounded(self) -> None:
        assert self.cancelled or self.waiting <= self.backlog

    @invariant()
    def only_a_reader_without_credit_or_a_slow_writer_stops_the_row(self) -> None:
        driver = self.driver
        if driver.paused:
            no_credit = not self.half_closed and self.sent - self.acked >= self.window
            assert self.waiting > 0
            assert no_credit or self.waiting * 2 > self.backlog or driver.stream.wake.is_set()

    @invariant()
    def a_stalled_stream_runs_into_its_timeout(self) -> None:
        if self.driver.clock.now_s >= START_S + OPTIONS.default_timeout_s - OPTIONS.ack_timeout_s:
            return  # The end that every stream has is nearer.
        timeout_s = self.driver.ack_timeout_s
        assert (timeout_s is not None) == self.driver.in_state(State.STALLED) or self.driver.stream.ended
        assert timeout_s is None or 0 <= timeout_s <= OPTIONS.ack_timeout_s

    def teardown(self) -> None:
        """A client that goes on acking what it gets, one chunk at a time, reaches the end."""
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        for _ in range(MAX_TOKENS + 2):
            driver.run(1)
            if not self.half_closed and self.acked < self.sent:
                self.acked += 1
                driver.stream.take_ack(self.acked)
        driver.write_all()
        assert driver.stream.ended
        reason = driver.answer.end.reason
        assert reason == (pb.FINISH_REASON_CANCELLED if self.cancelled else pb.FINISH_REASON_LENGTH)
        if not self.cancelled:
            assert driver.answer.text == counted(self.tokens)
        assert driver.registry.active == 0
        assert not driver.running


def test_stream_machine() -> None:
    run_state_machine_as_test(
        StreamMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
