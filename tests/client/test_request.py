"""Keyword arguments become a Start message."""

import pytest

from penstock import GenerateOptions, InvalidRequestError, Prompt
from penstock.request import build_count, build_start
from penstock.v1.generation_pb2 import Priority, Start
from penstock.v1.input_pb2 import ChatInput, ChatMessage, TokenInput
from penstock.v1.options_pb2 import FlowOptions, OutputOptions, SamplingOptions, StoppingOptions

ALL: GenerateOptions = {
    "model": "tiny",
    "request_id": "r-7",
    "temperature": 0,
    "top_p": 0.5,
    "top_k": 4,
    "min_p": 0.25,
    "repetition_penalty": 2,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "penalty_context_tokens": 64,
    "logit_bias": {3: -100.0},
    "seed": 2**63,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.25,
    "max_tokens": 80,
    "min_tokens": 1,
    "stop": ["\n", "END"],
    "stop_token_ids": [1, 2],
    "ignore_eos": True,
    "logprobs": 0,
    "chunk_timing": True,
    "max_unacked_chunks": 8,
    "max_tokens_per_chunk": 2,
    "priority": "interactive",
    "cache_salt": "pepper",
    "timeout_s": 1.0,
    "metadata": [("key", "value")],
    "retries": 3,
    "on_retry": print,
}


def test_every_option_reaches_its_field() -> None:
    assert ALL.keys() == GenerateOptions.__optional_keys__
    assert build_start("Hello", ALL) == Start(
        request_id="r-7",
        model="tiny",
        prompt="Hello",
        sampling=SamplingOptions(
            temperature=0,
            top_p=0.5,
            top_k=4,
            min_p=0.25,
            repetition_penalty=2,
            presence_penalty=1,
            frequency_penalty=-1,
            penalty_context_tokens=64,
            logit_bias={3: -100.0},
            seed=2**63,
            xtc_probability=0.5,
            xtc_threshold=0.25,
        ),
        stopping=StoppingOptions(
            max_tokens=80, min_tokens=1, stop_strings=["\n", "END"], stop_token_ids=[1, 2], ignore_eos=True
        ),
        output=OutputOptions(logprobs=0, chunk_timing=True),
        flow=FlowOptions(max_unacked_chunks=8, max_tokens_per_chunk=2),
        priority=Priority.PRIORITY_INTERACTIVE,
        cache_salt="pepper",
    )


@pytest.mark.parametrize("name", ["bulk", "default", "interactive", "system"])
def test_priority_by_name_and_by_value(name: str) -> None:
    value = Priority.Value(f"PRIORITY_{name.upper()}")
    assert build_start("Hello", {"priority": name}).priority == value
    assert build_start("Hello", {"priority": value}).priority == value


def test_none_is_left_to_the_server() -> None:
    nothing: GenerateOptions = {"temperature": None, "stop": None, "logprobs": None, "model": None}
    assert build_start("Hello", nothing) == Start(prompt="Hello")


def test_one_stop_string() -> None:
    assert list(build_start("Hello", {"stop": "END"}).stopping.stop_strings) == ["END"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}],
        ({"role": "user", "content": "Hi"},),
        [ChatMessage(role="user", content="Hi")],
    ],
)
def test_chat(messages: Prompt) -> None:
    expected = ChatInput(messages=[ChatMessage(role="user", content="Hi")])
    assert build_start(messages, {}).chat == expected


def test_token_ids() -> None:
    assert build_start(range(3), {}).tokens == TokenInput(ids=[0, 1, 2])


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ("Hello", {"max_tokens": -1}, "stopping.max_tokens"),
        ("Hello", {"seed": 2**64}, "sampling.seed"),
        ("Hello", {"temperature": "hot"}, "sampling.temperature"),
        ("Hello", {"stop": [1]}, "stopping.stop_strings"),
        ("Hello", {"model": 3}, "model"),
        ("Hello", {"priority": "high"}, "priority"),
        ("Hello", {"priority": "INTERACTIVE"}, "priority"),
        ("Hello", {"priority": 5}, "priority"),
        ("Hello", {"priority": 1.5}, "priority"),
        ("\ud800", {}, "prompt"),
        ([], {}, "prompt"),
        ([-1], {}, "tokens.ids"),
        ([1, "two"], {}, "tokens.ids"),
        ([{"role": "user", "text": "Hi"}], {}, "chat.messages"),
    ],
)
def test_values_that_no_field_can_hold(prompt: Prompt, options: GenerateOptions, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        build_start(prompt, options)
    assert caught.value.violations[0][0] == f"start.{field}"
    assert str(caught.value).startswith(f"start.{field}: ")


@pytest.mark.parametrize("prompt", [b"bytes", {"role": "user"}, None, 3])
def test_other_types_of_prompt(prompt: Prompt) -> None:
    with pytest.raises(TypeError, match="expected text, chat messages or token ids"):
        build_start(prompt, {})


def test_a_wrong_priority_says_what_is_allowed() -> None:
    with pytest.raises(InvalidRequestError, match="got 'high'; allowed: bulk, default, interactive, system"):
        build_start("Hello", {"priority": "high"})


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError, match="max_token'"):
        build_start("Hello", {"max_token": 3})  # type: ignore[typeddict-unknown-key]


def test_token_ids_are_not_counted() -> None:
    with pytest.raises(InvalidRequestError, match="counted"):
        build_count([1, 2], None)
