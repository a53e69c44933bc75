"""How a stream ends, what comes before what, and that everything is given back."""

from collections.abc import Callable

import pytest

from engine.events import Failed, Prefill
from engine.scripted import EOS_TOKEN_ID, ScriptedEngine
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import Input, State
from penstock.v1 import generation_pb2 as pb
from service.errors import ServiceError
from tests.service.drivers import StreamDriver, counted, scripted_engine


def test_finished_follows_the_last_chunk_and_needs_no_credit(engine: ScriptedEngine) -> None:
    flow = {"max_unacked_chunks": 2, "max_tokens_per_chunk": 1}
    driver = StreamDriver(engine, flow, stopping={"max_tokens": 2})
    driver.run(2)
    assert driver.stream.credits().credit == 0
    assert driver.answer.end.reason == pb.FINISH_REASON_LENGTH
    assert driver.answer.text == counted(2)
    assert driver.answer.end.usage.prompt_tokens == 3
    assert driver.in_state(State.FINISHED)


def test_finished_waits_for_chunks_that_have_no_credit(engine: ScriptedEngine) -> None:
    flow = {"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}
    driver = StreamDriver(engine, flow, stopping={"max_tokens": 2})
    driver.run(5)
    assert driver.answer.finished is None
    driver.ack_all()
    assert [m.WhichOneof("message") for m in driver.write_all()] == ["chunk", "finished"]


def test_text_held_back_for_a_stop_string_comes_without_tokens(engine: ScriptedEngine) -> None:
    stopping = {"max_tokens": 3, "stop_strings": [" 3 4 never"]}
    driver = StreamDriver(engine, {"max_tokens_per_chunk": 1}, stopping=stopping)
    driver.run(3)
    assert driver.answer.text == counted(3)
    assert [list(chunk.token_ids) for chunk in driver.answer.chunks][-1] == []


async def test_a_stop_token_is_named() -> None:
    engine = scripted_engine(lambda request: [(7, " a"), (EOS_TOKEN_ID, "")])
    await engine.start()
    driver = StreamDriver(engine)
    driver.run(2)
    assert driver.answer.end.reason == pb.FINISH_REASON_STOP
    assert driver.answer.end.stop_token_id == EOS_TOKEN_ID
    assert driver.answer.token_ids == [7]


def test_an_error_comes_before_chunks_that_wait(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.step(10)
    engine.fail(1, Reason.STEP_FAILED, "the model raised")
    with pytest.raises(ServiceError, match="the model raised") as caught:
        driver.write()
    assert caught.value.reason is Reason.STEP_FAILED
    assert not driver.answer.chunks


def test_an_error_of_the_protocol_frees_the_row_at_once_and_the_first_one_counts(
    engine: ScriptedEngine,
) -> None:
    driver = StreamDriver(engine)
    driver.run(3)
    driver.stream.take_error(ServiceError(Reason.PROTOCOL_VIOLATION, "first"))
    assert not driver.running
    driver.stream.take_error(ServiceError(Reason.DRAINING, "second"))
    with pytest.raises(ServiceError, match="first"):
        driver.write()


def test_an_error_wakes_the_writer(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.write_all()
    assert not driver.stream.wake.is_set()
    driver.stream.take_event(Failed(1, Reason.WORKER_LOST, "gone", ""))
    assert driver.stream.wake.is_set()


def test_a_field_that_the_engine_refuses_has_its_path_from_the_request(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, sampling={"top_k": 100_000})
    driver.step()
    with pytest.raises(ServiceError) as caught:
        driver.write()
    assert [violation.field for violation in caught.value.violations] == ["start.sampling.top_k"]


def test_cancel_frees_the_row_in_the_same_call_and_drops_what_waits(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(3)
    driver.step(10)
    driver.stream.take_cancel()
    assert not driver.running
    assert [m.WhichOneof("message") for m in driver.write_all()] == ["finished"]
    assert driver.answer.end.reason == pb.FINISH_REASON_CANCELLED
    assert driver.answer.end.usage.completion_tokens == 3
    assert driver.answer.end.usage.prompt_tokens == 3
    assert driver.in_state(State.CANCELLED)


def test_cancel_of_a_stalled_stream_needs_no_credit(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 1, "max_tokens_per_chunk": 1})
    driver.run(5)
    driver.stream.take_cancel()
    driver.write_all()
    assert driver.answer.end.reason == pb.FINISH_REASON_CANCELLED
    assert engine.snapshot().counters.paused_rows == 0


def test_cancel_twice_and_an_ack_after_it_do_no_harm(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(3)
    driver.stream.take_cancel()
    driver.stream.take_cancel()
    driver.ack_all()
    driver.write_all()
    assert driver.answer.end.reason == pb.FINISH_REASON_CANCELLED


@pytest.mark.parametrize("how", [Input.CANCEL, Input.FAIL])
def test_close_gives_back_the_row_and_the_place(engine: ScriptedEngine, how: Input) -> None:
    driver = StreamDriver(engine)
    driver.step(3)
    driver.stream.close(how)
    assert not driver.running
    assert driver.registry.active == 0
    assert driver.in_state(State.CANCELLED if how is Input.CANCEL else State.FAILED)
    assert driver.stream.next_message() is None


def test_close_after_the_end_does_not_change_how_it_ended(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, stopping={"max_tokens": 1})
    driver.run(1)
    driver.stream.close(Input.FAIL)
    assert driver.in_state(State.FINISHED)


def test_progress_comes_before_the_first_token_only_and_only_the_latest(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.stream.take_event(Prefill(1, 2, 0, 30))
    driver.write_all()
    driver.stream.take_event(Prefill(1, 1, 0, 30))
    driver.stream.take_event(Prefill(1, 0, 10, 30))
    driver.write_all()
    assert driver.in_state(State.PREFILL)
    driver.run(1)
    driver.stream.take_event(Prefill(1, 0, 30, 30))
    driver.write_all()
    told = [(p.queue_position, p.prompt_tokens_done) for p in driver.answer.progress]
    assert told == [(2, 0), (0, 10)]
    assert len(driver.answer.chunks) == 1


def test_an_engine_that_cannot_take_the_stream_is_an_error_with_a_retry_time(engine: ScriptedEngine) -> None:
    engine.die()
    with pytest.raises(ServiceError) as caught:
        StreamDriver(engine)
    assert caught.value.reason is Reason.MODEL_LOADING
    assert caught.value.retry_after_s is not None


def test_a_lost_worker_ends_the_stream(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(2)
    engine.die()
    with pytest.raises(ServiceError) as caught:
        driver.write()
    assert caught.value.reason is Reason.WORKER_LOST


def test_chunk_timing_counts_from_accepted(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, output={"chunk_timing": True})
    driver.clock.now_s += 0.5
    driver.step(2)
    driver.clock.now_s += 0.25
    driver.write_all()
    timing = driver.answer.chunks[0].timing
    assert timing.engine_ms == pytest.approx(500)
    assert timing.written_ms == pytest.approx(750)


def test_logprobs_come_one_per_token_also_in_a_shared_chunk(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, output={"logprobs": 1})
    driver.step(30)
    driver.write_all()
    assert [one.top[0].token_id for one in driver.answer.logprobs] == list(range(1, 31))
    assert driver.sizes[0] > 1


def test_the_time_to_the_first_token_is_told(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, stopping={"max_tokens": 1})
    driver.clock.now_s += 0.125
    driver.run(1)
    assert driver.answer.end.timing.first_token_ms == pytest.approx(125)


def test_the_place_is_free_in_the_call_in_which_the_end_is_known(engine: ScriptedEngine) -> None:
    """Whatever ends a stream: its writer and its handler have had no turn yet."""
    ends: list[Callable[[StreamDriver], object]] = [
        lambda driver: driver.stream.take_cancel(),
        lambda driver: driver.stream.take_error(ServiceError(Reason.DRAINING, "enough")),
        lambda driver: driver.stream.take_event(Failed(1, Reason.WORKER_LOST, "gone", "")),
        lambda driver: driver.stream.close(Input.CANCEL),
    ]
    for end in ends:
        driver = StreamDriver(engine)
        driver.run(3)
        assert driver.registry.active == 1
        end(driver)
        assert driver.registry.active == 0
