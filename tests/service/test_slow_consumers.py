"""A reader whose acks come late is counted and told, once."""

import pytest

from engine.scripted import ScriptedEngine
from tests.service.drivers import StreamDriver

FLOW = {"max_unacked_chunks": 4, "max_tokens_per_chunk": 1}


def ack_after(driver: StreamDriver, seconds: float) -> None:
    """One token is written and acked so much later."""
    driver.run(1)
    driver.clock.now_s += seconds
    driver.ack_all()
    driver.write_all()


def test_it_is_counted_once_and_told_once(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, FLOW)
    for _ in range(4):
        ack_after(driver, 1.5)
    (notice,) = driver.answer.notices
    assert notice.code == "SLOW_CONSUMER"
    assert "1500 ms on average, the limit is 1000 ms; 0 chunks" in notice.text
    assert driver.registry.snapshot().slow_consumers == 1
    assert driver.stream.snapshot().slow


def test_a_prompt_reader_is_none(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, FLOW)
    for _ in range(20):
        ack_after(driver, 0.9)
    assert not driver.answer.notices
    assert driver.registry.snapshot().slow_consumers == 0
    assert driver.stream.snapshot().mean_ack_s == pytest.approx(0.9)


def test_acks_of_half_a_window_are_no_reason(engine: ScriptedEngine) -> None:
    """The first chunk of each half waits for its ack because the reader acks seldom, not late."""
    driver = StreamDriver(engine, {"max_unacked_chunks": 100, "max_tokens_per_chunk": 1})
    for _ in range(3):
        for _ in range(50):
            driver.run(1)
            driver.clock.now_s += 0.1
        driver.ack_all()
        driver.write_all()
    assert not driver.answer.notices


def test_a_notice_needs_no_credit(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 2, "max_tokens_per_chunk": 1})
    driver.run(4)
    driver.clock.now_s += 3
    driver.stream.take_ack(1)
    driver.run(3)
    assert driver.stream.credits().credit == 0
    assert len(driver.answer.notices) == 1


def test_after_the_half_close_nobody_is_slow(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, FLOW)
    driver.run(2)
    driver.stream.take_half_close()
    driver.clock.now_s += 60
    driver.run(50)
    assert not driver.answer.notices
