"""A prompt that is streamed up in pieces, as the stream and the server see it."""

from typing import Any

import grpc
import pytest

from engine.scripted import ScriptedEngine
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2 as pb
from service.errors import ServiceError
from tests.service.calls import GenerateCall, endless
from tests.service.drivers import StreamDriver, counted, scripted_engine
from tests.service.eventually import eventually
from tests.service.servers import serving

PIECES = ("one two thr", "ee four", " five")


def begun(engine: ScriptedEngine, **start: Any) -> StreamDriver:
    return StreamDriver(engine, prompt_parts={}, **start)


def test_the_pieces_are_one_prompt(engine: ScriptedEngine) -> None:
    driver = begun(engine, stopping={"max_tokens": 3})
    for piece in PIECES:
        driver.run(2)
        assert not driver.answer.chunks
        driver.stream.take_prompt_part(piece, last=piece is PIECES[-1])
    driver.run(4)
    assert driver.answer.text == counted(3)
    assert driver.answer.end.usage.prompt_tokens == 5


def test_accepted_tells_a_good_size(engine: ScriptedEngine) -> None:
    driver = begun(engine)
    assert driver.answer.accepted is not None
    assert driver.answer.accepted.prompt_part_bytes == 2**15


def test_each_piece_gives_the_next_one_its_time(engine: ScriptedEngine) -> None:
    driver = begun(engine)
    assert driver.ack_timeout_s == 10.0
    driver.clock.now_s += 9
    driver.stream.take_prompt_part("one", last=False)
    assert driver.ack_timeout_s == 10.0
    driver.stream.take_prompt_part(" two", last=True)
    assert driver.ack_timeout_s is None


def test_a_caller_that_stops_in_the_middle_runs_out_of_time(engine: ScriptedEngine) -> None:
    driver = begun(engine)
    driver.stream.take_prompt_part("one", last=False)
    driver.clock.now_s += 10
    error = driver.stream.timed_out()
    assert (error.reason, error.code) == (Reason.IDLE_TIMEOUT, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert "no prompt_part came for 10 s" in error.message


@pytest.mark.parametrize(("parts", "shown"), [(False, "start has no prompt_parts"), (True, "after the last")])
def test_a_piece_out_of_place(engine: ScriptedEngine, parts: bool, shown: str) -> None:
    driver = begun(engine) if parts else StreamDriver(engine)
    if parts:
        driver.stream.take_prompt_part("all", last=True)
    with pytest.raises(ServiceError, match=shown) as caught:
        driver.stream.take_prompt_part("more", last=False)
    assert caught.value.reason is Reason.PROTOCOL_VIOLATION


def test_closing_before_the_last_piece_is_an_error(engine: ScriptedEngine) -> None:
    driver = begun(engine)
    driver.stream.take_prompt_part("one", last=False)
    with pytest.raises(ServiceError, match="before the last piece"):
        driver.stream.take_half_close()


def test_all_pieces_together_are_bounded_in_bytes(engine: ScriptedEngine) -> None:
    driver = StreamDriver(engine, options={"max_prompt_bytes": 10}, prompt_parts={})
    driver.stream.take_prompt_part("\N{SNOWMAN}" * 3, last=False)
    with pytest.raises(ServiceError) as caught:
        driver.stream.take_prompt_part("xy", last=True)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert [violation.field for violation in caught.value.violations] == ["prompt_part.text"]


def test_a_cancel_between_two_pieces_frees_the_place(engine: ScriptedEngine) -> None:
    driver = begun(engine)
    driver.stream.take_prompt_part("one", last=False)
    driver.stream.take_cancel()
    assert driver.in_state(State.CANCELLED)
    driver.write_all()
    assert driver.answer.end.reason == pb.FINISH_REASON_CANCELLED


async def test_a_whole_call_in_pieces() -> None:
    async with serving(scripted_engine(step_s=0.001)) as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(5, prompt_parts={}))
        for piece in PIECES:
            await call.send(prompt_part=pb.PromptPart(text=piece, last=piece is PIECES[-1]))
        await call.half_close()
        answer = await call.rest()
    assert answer.text == counted(5)
    assert answer.end.usage.prompt_tokens == 5


async def test_the_server_frees_a_caller_that_stops_in_the_middle() -> None:
    options = {"idle_timeout_s": 0.2}
    async with serving(scripted_engine(step_s=0.001), stream=options) as local:
        async with GenerateCall(local.stubs.generation) as call:
            await call.start(endless(5, prompt_parts={}))
            await call.send(prompt_part=pb.PromptPart(text="one"))
            refusal = await call.refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "IDLE_TIMEOUT")
        status = await eventually(local.stubs.status, lambda status: status.streams.active == 0)
        assert status.streams.ended.failed == 1
