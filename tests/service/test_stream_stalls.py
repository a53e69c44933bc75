"""What a stream knows of the time it waits for credit."""

from typing import Any

import pytest

from engine.scripted import ScriptedEngine
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2 as pb
from tests.service.drivers import StreamDriver

WINDOW_1 = {"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}


def stalled(engine: ScriptedEngine, **start: Any) -> StreamDriver:
    driver = StreamDriver(engine, WINDOW_1, **start)
    driver.run(4)
    assert driver.in_state(State.STALLED)
    return driver


def test_a_stream_with_credit_has_no_timeout(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(10)
    driver.clock.now_s += 3600
    driver.write_all()
    assert driver.ack_timeout_s is None


def test_a_spent_window_with_nothing_waiting_is_no_stall(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, WINDOW_1)
    driver.run(1)
    assert driver.stream.credits().credit == 0
    assert driver.ack_timeout_s is None
    assert driver.in_state(State.STREAMING)


def test_the_ack_timeout_runs_from_the_beginning_of_the_stall(engine: ScriptedEngine) -> None:
    driver = stalled(engine)
    assert driver.ack_timeout_s == 5.0
    driver.clock.now_s += 3
    driver.write_all()
    assert driver.ack_timeout_s == 2.0
    driver.clock.now_s += 7
    assert driver.ack_timeout_s == 0.0


def test_an_old_ack_does_not_prolong_the_ack_timeout(engine: ScriptedEngine) -> None:
    driver = stalled(engine)
    driver.clock.now_s += 3
    driver.stream.take_ack(0)
    driver.write_all()
    assert driver.ack_timeout_s == 2.0


def test_returned_credit_ends_the_stall_and_a_new_one_begins_anew(engine: ScriptedEngine) -> None:
    driver = stalled(engine)
    driver.clock.now_s += 4
    driver.stream.take_ack(1)
    driver.write_all()
    assert driver.ack_timeout_s is None
    assert driver.in_state(State.STREAMING)
    driver.run(3)
    assert driver.ack_timeout_s == 5.0


def test_the_timeout_error_says_what_was_missing(engine: ScriptedEngine) -> None:
    driver = stalled(engine)
    driver.clock.now_s += 5
    error = driver.stream.timed_out()
    assert error.reason is Reason.ACK_TIMEOUT
    assert error.message == "no ack for 5 s with 1 chunks not acked (window 1)"


def test_finished_tells_the_sum_of_all_stalls(engine: ScriptedEngine) -> None:
    driver = stalled(engine, stopping={"max_tokens": 3})
    for waited_s in (1.5, 2.0):
        driver.clock.now_s += waited_s
        driver.ack_all()
        driver.run(2)
    assert driver.answer.end.reason == pb.FINISH_REASON_LENGTH
    assert driver.answer.end.timing.stalled_ms == pytest.approx(3500)


def test_a_stream_cancelled_in_a_stall_tells_that_stall_too(engine: ScriptedEngine) -> None:
    driver = stalled(engine)
    driver.clock.now_s += 2
    driver.stream.take_cancel()
    driver.write_all()
    assert driver.answer.end.reason == pb.FINISH_REASON_CANCELLED
    assert driver.answer.end.timing.stalled_ms == pytest.approx(2000)
