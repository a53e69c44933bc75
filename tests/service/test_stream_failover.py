"""A stream whose worker is lost: the caller sees a pause and a notice."""

import pytest

from engine.events import Finished, FinishReason, Interrupted, Prefill, Token
from engine.scripted import ScriptedEngine
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2 as pb
from tests.engine.waiting import eventually
from tests.service.calls import GenerateCall, endless
from tests.service.drivers import OPTIONS, StreamDriver, counted, scripted_engine
from tests.service.servers import serving

TOKENS = 12


def kinds(messages: list[pb.GenerateResponse]) -> list[str | None]:
    return [message.WhichOneof("message") for message in messages]


@pytest.mark.parametrize("after", range(TOKENS))
def test_the_text_is_that_of_the_unbroken_run(engine: ScriptedEngine, after: int) -> None:
    driver = StreamDriver(engine, stopping={"max_tokens": TOKENS})
    driver.run(after)
    engine.interrupt(1)
    driver.run(TOKENS + 1)
    assert driver.answer.text == counted(TOKENS)
    assert driver.answer.end.usage.prompt_tokens == 3
    assert [notice.code for notice in driver.answer.notices] == ["FAILOVER"]


def test_the_state_stays_and_progress_does_not_come_again(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(3)
    engine.interrupt(1)
    assert driver.in_state(State.STREAMING)
    driver.step()  # Prompt and output are computed again, and a token comes.
    assert driver.in_state(State.STREAMING)
    assert kinds(driver.write_all()) == ["notice", "chunk"]


def test_each_failover_is_told_and_none_hides_another(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(3)
    engine.interrupt(1)
    engine.interrupt(1)
    assert kinds(driver.write_all()) == ["notice", "notice"]
    driver.run(2)
    engine.interrupt(1)
    driver.run(2)
    assert [notice.code for notice in driver.answer.notices] == ["FAILOVER"] * 3
    assert driver.answer.text == counted(len(driver.answer.token_ids))


def test_a_notice_needs_no_credit_and_a_stalled_stream_stays_stalled(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, {"max_unacked_chunks": 2, "max_tokens_per_chunk": 1})
    driver.run(6)
    assert driver.in_state(State.STALLED)
    driver.clock.now_s += 1.0
    left_s = driver.ack_timeout_s
    engine.interrupt(1)
    assert kinds(driver.write_all()) == ["notice"]
    assert driver.in_state(State.STALLED)
    assert driver.ack_timeout_s == left_s
    for _ in range(10):
        driver.ack_all()
        driver.run(1)
    assert driver.answer.text == counted(len(driver.answer.token_ids))
    assert len(driver.answer.token_ids) > 10


def test_usage_of_a_cancel_after_a_failover_counts_the_prompt_alone(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.run(3)
    engine.interrupt(1)
    driver.run(2)
    driver.stream.take_cancel()
    driver.write()
    assert driver.answer.end.usage.prompt_tokens == 3
    assert driver.answer.end.usage.completion_tokens == 5


def test_time_to_first_token_stays_that_of_the_first_token(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, stopping={"max_tokens": 4})
    driver.clock.now_s += 0.5
    driver.run(2)
    engine.interrupt(1)
    driver.clock.now_s += 10.0
    driver.run(3)
    assert driver.answer.end.timing.first_token_ms == pytest.approx(500)


@pytest.mark.parametrize("interrupted", [False, True])
def test_admission_learns_nothing_of_a_failover(engine: ScriptedEngine, interrupted: bool) -> None:
    driver = StreamDriver(engine, stopping={"max_tokens": 4})
    before = driver.governor.snapshot(driver.clock()).estimates
    if interrupted:
        engine.interrupt(1)
    driver.clock.now_s += 20.0
    driver.run(5)
    assert driver.stream.ended
    assert (driver.governor.snapshot(driver.clock()).estimates == before) == interrupted


def test_progress_begins_again_before_the_first_token(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    for event in (Prefill(1, 0, 2, 3), Interrupted(1), Prefill(1, 2, 0, 3), Prefill(1, 0, 1, 3)):
        driver.stream.take_event(event)
        driver.write_all()
    progress = driver.answer.progress
    assert [(each.queue_position, each.prompt_tokens_done) for each in progress] == [(0, 2), (2, 0), (0, 1)]
    assert driver.in_state(State.PREFILL)


def test_stages_and_cached_tokens_are_told(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine)
    driver.stream.take_event(Token(1, 5, " five", None))
    end = Finished(1, FinishReason.STOP, "", "", None, 7, 1, 4, 0.004, 0.001, 0.002, 0.008, 0.016)
    driver.stream.take_event(end)
    driver.write_all()
    usage, timing = driver.answer.end.usage, driver.answer.end.timing
    assert (usage.prompt_tokens, usage.cached_prompt_tokens) == (7, 4)
    assert (timing.queue_ms, timing.tokenise_ms, timing.cache_lookup_ms) == (4.0, 1.0, 2.0)
    assert (timing.prefill_ms, timing.decode_ms, timing.admission_ms) == (8.0, 16.0, 0.0)


async def test_on_the_server_a_failover_is_a_notice_between_chunks() -> None:
    engine = scripted_engine(step_s=0.0)
    async with serving(engine) as server, GenerateCall(server.stubs.generation) as call:
        # More than may be waiting to be sent, so that the row is paused however slow the writing is.
        tokens = 2 * OPTIONS.max_backlog_tokens
        await call.start(endless(tokens, flow={"max_unacked_chunks": 5, "max_tokens_per_chunk": 1}))
        await call.read_chunks(5)
        await eventually(lambda: engine.snapshot().counters.paused_rows == 1)
        engine.interrupt(1)
        await call.read()
        assert [notice.code for notice in call.answer.notices] == ["FAILOVER"]
        await call.half_close()
        answer = await call.rest()
    assert answer.text == counted(tokens)
    assert len(answer.notices) == 1
