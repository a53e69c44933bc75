"""What a stream needs to go on elsewhere, and what it is told at its end."""

import msgspec
import pytest

from engine.events import Finished, FinishReason
from engine.requests import GenerationRequest, PartsInput
from engine.stream_record import StreamRecord
from engine.wire import PromptPart, Submit
from tests.engine.requests import Sink, generation

END = Finished(
    stream=1,
    reason=FinishReason.LENGTH,
    text="",
    stop_string="",
    stop_token_id=None,
    prompt_tokens=5,
    completion_tokens=7,
    cached_tokens=0,
    queue_s=0.5,
    tokenise_s=0.25,
    cache_lookup_s=0.0,
    prefill_s=1.0,
    decode_s=2.0,
)


def record(request: GenerationRequest) -> StreamRecord:
    return StreamRecord(1, request, Sink(), (), submitted_s=10.0)


def test_tokens_that_were_delivered_follow_those_that_the_caller_resumed_with() -> None:
    stream = record(generation(resume_ids=(3, 4)))
    assert stream.commands() == [Submit(1, stream.request)]
    for token_id in (5, 6):
        stream.take_token(token_id, 11.0)
    assert stream.commands() == [Submit(1, generation(resume_ids=(3, 4, 5, 6)))]
    assert stream.commands() == [Submit(1, generation(resume_ids=(3, 4, 5, 6)))]


def test_it_keeps_on_another_worker_what_it_began_with() -> None:
    stream = record(generation(prefix_cache=False, speculate=False))
    stream.take_token(5, 11.0)
    [submit] = stream.commands()
    assert submit == Submit(1, generation(prefix_cache=False, speculate=False, resume_ids=(5,)))


@pytest.mark.parametrize("last", [False, True])
def test_pieces_of_a_prompt_are_sent_again_in_one(last: bool) -> None:
    stream = record(generation(PartsInput()))
    assert stream.commands() == [Submit(1, stream.request)]
    assert not stream.whole
    for text in ("Once", "", " upon"):
        stream.add_piece(text, last=False)
    stream.add_piece(" a time", last=last)
    for _ in range(2):
        assert stream.commands() == [Submit(1, stream.request), PromptPart(1, "Once upon a time", last)]
    assert stream.whole == last


def test_a_prompt_of_no_text_is_whole_with_its_last_piece() -> None:
    stream = record(generation(PartsInput()))
    stream.add_piece("", last=True)
    assert stream.commands()[1:] == [PromptPart(1, "", True)]


def test_a_token_clears_what_a_stream_was_suspected_of() -> None:
    stream = record(generation())
    stream.strikes, stream.on_trial = 3, True
    stream.take_token(5, 11.0)
    assert (stream.strikes, stream.on_trial, stream.unproven) == (0, False, False)


def test_the_wait_for_a_worker_counts_as_queued() -> None:
    stream = record(generation())
    stream.given_s, stream.warm_s = 14.0, 0.125
    stream.take_token(5, 15.5)
    assert stream.finished(END, 18.0) == msgspec.structs.replace(END, queue_s=4.5, tokenise_s=0.375)


def test_a_stream_that_went_on_before_its_first_token_was_queued_until_then() -> None:
    stream = record(generation())
    stream.given_s = 12.0
    stream.given_s = 30.0
    stream.take_token(5, 31.5)
    assert stream.finished(END, 34.0).queue_s == 20.5
    assert stream.finished(END, 34.0).prefill_s == END.prefill_s


def test_a_stream_that_went_on_between_tokens_was_decoded_all_the_time() -> None:
    stream = record(generation())
    stream.given_s = 12.0
    stream.take_token(5, 15.0)
    stream.given_s, stream.unproven = 30.0, True
    stream.take_token(6, 31.0)
    end = stream.finished(END, 40.0)
    assert (end.queue_s, end.prefill_s, end.decode_s) == (2.0, 3.0, 25.0)
