"""Reading a start message: whatever comes is read or refused, and each refusal names its fields."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.requests import ChatInput, TextInput, TokenInput
from flowcontrol.reasons import Reason
from penstock.v1 import generation_pb2 as pb
from service.errors import ServiceError
from service.start_message import StartMessage, read_count_request, read_start
from tests.service.calls import start
from tests.service.faults import OF_THE_INPUT, WITH_AN_INPUT, Fault, name


def violations(message: pb.Start) -> dict[str, str]:
    with pytest.raises(ServiceError) as caught:
        read_start(message)
    assert caught.value.reason is Reason.INVALID_REQUEST
    for violation in caught.value.violations:
        assert violation.field in caught.value.message
    return {violation.field: violation.description for violation in caught.value.violations}


@pytest.mark.parametrize("fault", WITH_AN_INPUT, ids=name)
def test_a_value_out_of_range_is_named(fault: Fault) -> None:
    found = violations(pb.Start(prompt="x", **fault.fields))
    assert list(found) == [fault.violated]
    assert fault.shown in found[fault.violated]


@pytest.mark.parametrize("fault", OF_THE_INPUT, ids=name)
def test_a_wrong_input_is_named(fault: Fault) -> None:
    found = violations(pb.Start(**fault.fields))
    assert list(found) == [fault.violated]
    assert fault.shown in found[fault.violated]


# Not the one that needs a good value in another field.
MERGEABLE = [fault for fault in WITH_AN_INPUT if fault.violated != "start.stopping.min_tokens"]


@given(st.lists(st.sampled_from(MERGEABLE), min_size=1, max_size=6, unique_by=lambda f: f.violated))
def test_several_faults_are_all_named(faults: list[Fault]) -> None:
    message = pb.Start()
    for fault in faults:
        # Merging adds to the lists and maps that two faults share, as a caller may.
        message.MergeFrom(pb.Start(**fault.fields))
    found = violations(message)
    assert {"start.input", *(f.violated for f in faults if "[" not in f.violated)} <= found.keys()


Numbers = st.one_of(st.floats(), st.floats(-3, 12), st.just(0.0))
Uint32 = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))
Text = st.text(max_size=5)


def message_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


Starts = message_of(
    request_id=st.text(max_size=140),
    model=Text,
    sampling=message_of(
        temperature=Numbers,
        top_p=Numbers,
        top_k=Uint32,
        min_p=Numbers,
        repetition_penalty=Numbers,
        presence_penalty=Numbers,
        frequency_penalty=Numbers,
        penalty_context_tokens=Uint32,
        logit_bias=st.dictionaries(Uint32, Numbers, max_size=3),
        seed=st.integers(0, 2**64 - 1),
        xtc_probability=Numbers,
        xtc_threshold=Numbers,
    ),
    stopping=message_of(
        max_tokens=Uint32,
        min_tokens=Uint32,
        stop_strings=st.lists(Text, max_size=18),
        stop_token_ids=st.lists(Uint32, max_size=70),
        ignore_eos=st.booleans(),
    ),
    output=message_of(logprobs=Uint32, chunk_timing=st.booleans()),
    flow=message_of(max_unacked_chunks=Uint32, max_tokens_per_chunk=Uint32),
    priority=st.sampled_from([0, 0, 0, 1, 4, 99]),
)
Inputs = st.one_of(
    message_of(prompt=Text),
    message_of(tokens=message_of(ids=st.lists(Uint32, max_size=4))),
    message_of(
        chat=message_of(
            messages=st.lists(
                message_of(role=st.sampled_from(["user", "system", "", "User"]), content=Text), max_size=3
            )
        )
    ),
)


@given(Starts, Inputs)
def test_any_start_is_read_within_the_ranges_or_refused(fields: dict[str, Any], model_input: Any) -> None:
    message = pb.Start(**fields, **model_input)
    try:
        read = read_start(message)
    except ServiceError as error:
        refused = error
    else:
        check_ranges(read)
        return
    assert refused.reason in (Reason.INVALID_REQUEST, Reason.NOT_IMPLEMENTED)
    assert refused.violations
    assert refused.to_status("").message


def check_ranges(read: StartMessage) -> None:
    sampling, stopping = read.request.sampling, read.request.stopping
    assert 1 <= len(read.request_id) <= 128
    assert 0 <= sampling.temperature <= 10
    assert 0 < sampling.top_p <= 1
    assert 0 <= sampling.min_p <= 1
    assert 0 < sampling.repetition_penalty <= 10
    assert abs(sampling.presence_penalty) <= 2
    assert abs(sampling.frequency_penalty) <= 2
    assert 1 <= sampling.penalty_context_tokens <= 4096
    assert all(abs(bias) <= 100 for bias in sampling.logit_bias.values())
    assert 0 <= sampling.xtc_threshold <= 0.5
    assert stopping.max_tokens is None or stopping.min_tokens <= stopping.max_tokens
    assert len(stopping.stop_strings) <= 16
    assert all(stopping.stop_strings)
    assert read.request.logprobs is None or read.request.logprobs <= 20


def test_an_empty_start_but_for_its_prompt_has_the_documented_defaults() -> None:
    read = read_start(pb.Start(prompt="x"))
    sampling, stopping = read.request.sampling, read.request.stopping
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert (sampling.repetition_penalty, sampling.penalty_context_tokens) == (1.0, 20)
    assert (sampling.xtc_probability, sampling.xtc_threshold) == (0.0, 0.1)
    assert (stopping.max_tokens, stopping.min_tokens, stopping.ignore_eos) == (None, 0, False)
    assert read.request.logprobs is None
    assert (read.max_unacked_chunks, read.max_tokens_per_chunk, read.chunk_timing) == (0, 0, False)


def test_a_zero_that_was_sent_is_not_a_default() -> None:
    message = start(
        "x", sampling={"temperature": 0.0, "seed": 0, "xtc_threshold": 0.0}, output={"logprobs": 0}
    )
    read = read_start(message)
    assert (read.request.sampling.temperature, read.request.sampling.seed) == (0.0, 0)
    assert (read.request.sampling.xtc_threshold, read.request.logprobs) == (0.0, 0)


def test_request_ids_and_seeds_are_made_where_they_are_missing() -> None:
    one, other = read_start(pb.Start(prompt="x")), read_start(pb.Start(prompt="x"))
    assert one.request_id != other.request_id
    assert one.request.sampling.seed != other.request.sampling.seed


def test_inputs_arrive_as_they_were_sent() -> None:
    chat = {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": ""}]}
    assert read_start(pb.Start(prompt=" x\n")).request.input == TextInput(" x\n")
    assert read_start(start(chat=chat)).request.input == ChatInput((("system", "a"), ("user", "")))
    assert read_start(start(tokens={"ids": [3, 0]})).request.input == TokenInput((3, 0))


@pytest.mark.parametrize(
    ("fields", "violated"),
    [({}, "input"), ({"prompt": ""}, "prompt"), ({"chat": {}}, "chat.messages")],
)
def test_a_wrong_count_request_is_refused(fields: dict[str, Any], violated: str) -> None:
    with pytest.raises(ServiceError) as caught:
        read_count_request(pb.CountTokensRequest(**fields))
    assert [violation.field for violation in caught.value.violations] == [violated]


def test_a_sampled_stream_is_continued_with_its_seed() -> None:
    """Without it the tokens would go on from another draw."""
    found = violations(start(resume={"token_ids": [1, 2]}))
    assert list(found) == ["start.sampling.seed"]
    for sampling in ({"temperature": 0}, {"seed": 0}):
        read = read_start(start(resume={"token_ids": [1, 2], "last_seq": 2}, sampling=sampling))
        assert (read.request.resume_ids, read.last_seq) == ((1, 2), 2)
    assert read_start(start(resume={})).request.resume_ids == ()
