"""Credits of one stream: when its row leaves the batch, when it comes back, what goes into a chunk."""

import pytest

from engine.scripted import ScriptedEngine
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import State
from service.errors import ServiceError
from tests.service.drivers import StreamDriver, counted

ONE_TOKEN = {"max_tokens_per_chunk": 1}


@pytest.mark.parametrize(("asked", "window"), [(1, 1), (5, 5), (0, 100), (1000, 100)])
def test_without_an_ack_exactly_a_window_of_chunks_is_written(
    engine: ScriptedEngine, asked: int, window: int
) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": asked, **ONE_TOKEN})
    driver.run(2 * window + 5)
    assert driver.answer.accepted is not None
    assert driver.answer.accepted.max_unacked_chunks == window
    assert len(driver.answer.chunks) == window
    assert driver.paused
    assert not driver.running
    assert driver.in_state(State.STALLED)


def test_a_stalled_row_makes_no_more_steps(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 5})
    driver.run(40)
    before = engine.snapshot().counters
    driver.run(40)
    assert engine.snapshot().counters == before
    # The window, and one whole chunk that waits for credit.
    assert before.generated_tokens == 5 + 16


def test_after_a_stall_an_ack_of_k_lets_k_chunks_through(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 5, **ONE_TOKEN})
    driver.run(20)
    for acked in (1, 3, 3, 8):
        driver.stream.take_ack(acked)
        driver.run(20)
        assert len(driver.answer.chunks) == acked + 5
    assert driver.answer.text == counted(13)


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("most", [1, 16])
def test_a_client_that_stalled_and_then_acks_one_by_one_gets_everything(
    engine: ScriptedEngine, window: int, most: int
) -> None:
    flow = {"max_unacked_chunks": window, "max_tokens_per_chunk": most}
    driver = StreamDriver(engine, flow, stopping={"max_tokens": 200})
    driver.run(60)
    for seq in range(1, 201):
        if not driver.stream.ended:
            driver.stream.take_ack(min(seq, len(driver.answer.chunks)))
            driver.run(20)
    assert driver.stream.ended
    assert driver.answer.text == counted(200)


def test_a_stream_whose_last_credit_is_spent_runs_into_the_ack_timeout_again(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 1, **ONE_TOKEN})
    driver.run(5)
    driver.stream.take_ack(1)
    driver.run(5)
    assert driver.in_state(State.STALLED)
    assert driver.ack_timeout_s == 5.0


def test_repeated_and_old_acks_change_nothing(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 5, **ONE_TOKEN})
    driver.run(20)
    driver.stream.take_ack(4)
    driver.run(20)
    for old in (4, 0, 3, 4):
        driver.stream.take_ack(old)
        driver.run(5)
    assert len(driver.answer.chunks) == 9


def test_an_ack_of_the_future_is_refused_and_changes_nothing(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 5, **ONE_TOKEN})
    driver.run(20)
    before = driver.stream.credits()
    with pytest.raises(ServiceError, match=r"ack\.seq 6 is beyond the last chunk sent, 5") as caught:
        driver.stream.take_ack(6)
    assert caught.value.reason is Reason.ACK_BEYOND_SENT
    assert driver.stream.credits() == before


def test_after_the_half_close_credit_does_not_count(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 2, **ONE_TOKEN}, stopping={"max_tokens": 90})
    driver.run(20)
    driver.stream.take_half_close()
    driver.write_all()
    driver.run(95)
    assert driver.stream.ended
    assert driver.answer.text == counted(90)


def test_without_enforcement_no_stream_stalls(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 1}, options={"enforce_credits": False})
    driver.run(300)
    assert driver.answer.accepted is not None
    assert driver.answer.accepted.max_unacked_chunks == 0
    assert driver.answer.text == counted(300)


@pytest.mark.parametrize(("asked", "most"), [(0, 16), (4, 4), (100, 16)])
def test_tokens_that_wait_for_credit_share_a_chunk_up_to_the_bound(
    engine: ScriptedEngine, asked: int, most: int
) -> None:
    driver = StreamDriver(engine, {"max_tokens_per_chunk": asked, "max_unacked_chunks": 1})
    assert driver.answer.accepted is not None
    assert driver.answer.accepted.max_tokens_per_chunk == most
    driver.run(1)
    driver.run(most)
    driver.ack_all()
    driver.write_all()
    assert driver.sizes == [1, most]
    assert driver.answer.text == counted(1 + most)


def test_the_further_the_writer_is_behind_the_larger_the_chunks(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.step(60)
    driver.write_all()
    assert driver.sizes[0] == 16
    assert driver.sizes == sorted(driver.sizes, reverse=True)
    assert driver.sizes[-6:] == [1] * 6
    assert driver.answer.text == counted(60)


def test_a_chunk_is_bounded_in_bytes(engine: ScriptedEngine) -> None:
    """The first chunk would hold 16 tokens of 3 bytes of text and 5 of id."""
    driver = StreamDriver(engine, options={"response_chunk_bytes": 40})
    driver.step(60)
    driver.write_all()
    assert driver.sizes[0] == 5
    assert driver.answer.text == counted(60)


def test_a_token_does_not_wait_for_company(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(10)
    assert driver.sizes == [1] * 10


def test_a_slow_writer_pauses_the_row_at_the_backlog_and_resumes_it_at_half(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, ONE_TOKEN)
    driver.write_all()
    driver.step(100)
    assert driver.paused
    assert engine.snapshot().counters.generated_tokens == 64
    for _ in range(31):
        driver.write()
    assert driver.paused
    driver.write()
    assert not driver.paused
    # The writer has credit: it is slow, not stalled.
    assert driver.in_state(State.STREAMING)


def test_the_row_is_paused_once_however_many_tokens_follow(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 1, **ONE_TOKEN})
    driver.run(3)
    driver.stream.take_ack(1)
    driver.run(3)
    assert driver.answer.text == counted(2)
    assert engine.snapshot().counters.generated_tokens == 3
