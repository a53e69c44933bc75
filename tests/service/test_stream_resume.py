"""A stream that was lost and goes on with the next token."""

from typing import Any

import grpc
import pytest

from engine.scripted import ScriptedEngine
from penstock.v1 import generation_pb2 as pb
from tests.service.calls import GenerateCall, endless, refused
from tests.service.drivers import StreamDriver, counted, scripted_engine
from tests.service.servers import serving

TOKENS = 12


def resumed(engine: ScriptedEngine, held: int, **start: Any) -> StreamDriver:
    """A stream of TOKENS tokens, of which the caller holds the first ones, one from each chunk."""
    resume = {"token_ids": range(1, held + 1), "last_seq": held}
    fields = {"sampling": {"seed": 7}, "stopping": {"max_tokens": TOKENS}, "resume": resume, **start}
    driver = StreamDriver(engine, **fields)
    driver.answer.resumed_ids = list(range(1, held + 1))
    driver.answer.last_seq = held
    return driver


@pytest.mark.parametrize("held", range(TOKENS))
def test_it_goes_on_after_every_token(engine: ScriptedEngine, held: int) -> None:
    driver = resumed(engine, held)
    driver.run(TOKENS)
    assert driver.answer.token_ids == list(range(held + 1, TOKENS + 1))
    assert counted(held) + driver.answer.text == counted(TOKENS)
    assert driver.answer.end.reason == pb.FINISH_REASON_LENGTH
    assert driver.answer.end.usage.completion_tokens == TOKENS


def test_all_tokens_and_no_finished_gives_finished_alone(engine: ScriptedEngine) -> None:
    driver = resumed(engine, TOKENS)
    driver.run(3)
    assert not driver.answer.chunks
    assert driver.answer.end.reason == pb.FINISH_REASON_LENGTH
    assert driver.answer.end.usage.completion_tokens == TOKENS


def test_the_window_is_whole_after_a_resume(engine: ScriptedEngine) -> None:
    driver = resumed(engine, 5, flow={"max_unacked_chunks": 2, "max_tokens_per_chunk": 1})
    driver.run(6)
    assert [chunk.seq for chunk in driver.answer.chunks] == [6, 7]
    driver.stream.take_ack(6)
    driver.run(2)
    assert [chunk.seq for chunk in driver.answer.chunks] == [6, 7, 8]


def test_without_last_seq_numbering_begins_again(engine: ScriptedEngine) -> None:
    driver = resumed(engine, 5, resume={"token_ids": range(1, 6)})
    driver.answer.last_seq = 0
    driver.run(2)
    assert [chunk.seq for chunk in driver.answer.chunks] == [1, 2]
    assert driver.answer.chunks[0].token_offset == 5


async def test_a_cut_stream_goes_on_through_a_new_call() -> None:
    whole = endless(40, sampling={"seed": 3})
    async with serving(scripted_engine(step_s=0.001)) as local:
        async with GenerateCall(local.stubs.generation) as first:
            accepted = await first.start(whole)
            await first.read_chunks(7)
        resume = pb.Resume(
            token_ids=first.answer.token_ids,
            last_seq=first.answer.chunks[-1].seq,
            model_fingerprint=accepted.model_fingerprint,
        )
        async with GenerateCall(local.stubs.generation) as second:
            second.answer.resumed_ids = first.answer.token_ids
            second.answer.last_seq = resume.last_seq
            again = endless(40, sampling={"seed": 3}, resume=resume)
            await second.start(again)
            await second.half_close()
            rest = await second.rest()
    assert first.answer.text + rest.text == counted(40)


@pytest.mark.parametrize(
    ("resume", "violated"),
    [
        ({"token_ids": range(1, 42)}, "start.resume.token_ids"),
        ({"token_ids": [1, 2**31]}, "start.resume.token_ids"),
        ({"token_ids": [1, 2, 0, 4]}, "start.resume.token_ids"),
        ({"token_ids": [1, 2], "model_fingerprint": "another"}, "start.resume.model_fingerprint"),
    ],
    ids=["too many", "no such token", "after the end", "another model"],
)
async def test_what_contradicts_the_request_is_refused(resume: dict[str, Any], violated: str) -> None:
    async with serving(scripted_engine(step_s=0.001)) as local:
        start = endless(40, resume=resume, stopping={"max_tokens": 40})
        refusal = await refused(local.stubs.generation, pb.GenerateRequest(start=start))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refusal.violations) == [violated]


def test_text_that_belongs_to_no_token_has_a_chunk_of_its_own(engine: ScriptedEngine) -> None:
    """It comes again after a resume, so nothing that does not may be beside it."""
    driver = StreamDriver(engine, stopping={"max_tokens": 30, "stop_strings": [" 30x"]})
    driver.step(40)
    driver.write_all()
    *_, last = driver.answer.chunks
    assert (list(last.token_ids), last.text) == ([], " 30")
    assert driver.answer.text == counted(30)
    again = StreamDriver(
        engine,
        sampling={"seed": 1},
        stopping={"max_tokens": 30, "stop_strings": [" 30x"]},
        resume={"token_ids": range(1, 31), "last_seq": last.seq - 1},
    )
    again.answer.resumed_ids, again.answer.last_seq = list(range(1, 31)), last.seq - 1
    again.run(2)
    assert [(list(chunk.token_ids), chunk.text) for chunk in again.answer.chunks] == [([], " 30")]


def test_text_that_belongs_to_no_token_needs_credit_too(engine: ScriptedEngine) -> None:
    flow = {"max_unacked_chunks": 2, "max_tokens_per_chunk": 1}
    driver = StreamDriver(engine, flow, stopping={"max_tokens": 2, "stop_strings": [" 2x"]})
    driver.run(4)
    assert len(driver.answer.chunks) == 2
    assert driver.ack_timeout_s == 5.0
    driver.ack_all()
    driver.write_all()
    assert driver.answer.text == counted(2)
    assert driver.answer.end.usage.completion_tokens == 2
