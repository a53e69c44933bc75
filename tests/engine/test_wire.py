"""Every message crosses the connection unchanged, and a connection cut anywhere reads as its end."""

import asyncio
import io
import math
import socket
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import wire
from engine.contract import NO_COUNTERS, ModelInfo
from engine.events import Failed, Finished, FinishReason, Prefill, Token, TokenLogprobs
from engine.requests import ChatInput, GenerationRequest, PartsInput, TextInput, TokenInput, TokenisedInput
from flowcontrol.reasons import Reason
from tests.engine.requests import generation
from tests.engine.subjects import WORKER

COMMANDS: list[wire.Command] = [
    wire.Configure(WORKER),
    wire.Submit(1, generation(TextInput("Zoë 🦊"), logit_bias={5: -1.5, 1023: 2.0}, seed=2**64 - 1)),
    wire.Submit(2, generation(ChatInput((("user", "hi"), ("assistant", ""))), stop_strings=("a", "\n"))),
    wire.Submit(3, generation(TokenInput((0, 1023)), max_tokens=None, logprobs=5)),
    wire.Submit(3, generation(PartsInput(), resume_ids=(1, 2, 3))),
    wire.PromptPart(3, " piece", False),
    wire.PromptPart(3, "", True),
    wire.Cancel(4),
    wire.Pause(5),
    wire.Resume(2**40),
    wire.Count(1, TextInput("")),
    wire.Tokenise(2, generation(ChatInput((("user", "hi"),)), cache_salt="s")),
    wire.Submit(4, generation(TokenisedInput((1, 2), "chat"))),
    wire.Tune(1, 0, 2),
    wire.Stop(),
]
MESSAGES: list[wire.Message] = [
    Prefill(1, 3, 10, 200),
    Token(1, 17, " fox", None),
    Token(2, 17, "", TokenLogprobs(-0.25, ((17, -0.25), (3, -math.inf)))),
    Finished(1, FinishReason.STOP, "he", "stop", None, 3, 4, 2, 0.5, 0.125, 0.0625, 0.25, 1.5),
    Finished(1, FinishReason.LENGTH, "", "", 2, 3, 4, 0, 0.0, 0.0, 0.0, 0.0, 0.0),
    Failed(9, Reason.INVALID_REQUEST, "sampling.top_k: too large", "sampling.top_k"),
    wire.Ready(ModelInfo("n", "s", "llama", 10**12, 1024, 2048, True, "0a1b", 4096.0), "/lib/blas.so", 0.02),
    wire.StartFailed("no such model"),
    wire.Heartbeat(replace(NO_COUNTERS, running_rows=1, kv_bytes=2**40, step_s=0.5)),
    wire.Loading("weights", 2**33, 2**40),
    wire.Tokenised(1, (5, 6), 0.25, None, "", ""),
    wire.Tokenised(1, (), 0.0, Reason.INVALID_REQUEST, "prompt: too long", "prompt"),
    wire.Counted(1, 5, None, "", ""),
    wire.Counted(2, 0, Reason.INVALID_REQUEST, "chat: no template", "chat"),
]


async def read_all(data: bytes) -> list[list[wire.Message]]:
    """Every complete frame of a connection that ends after `data`."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    frames = []
    while True:
        try:
            frames.append(await wire.read_messages(reader))
        except asyncio.IncompleteReadError:
            return frames


def test_the_samples_cover_every_type() -> None:
    assert {type(command) for command in COMMANDS} == set(get_args(wire.Command))
    assert {type(message) for message in MESSAGES} == set(get_args(wire.Message))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_arrives_unchanged(command: wire.Command) -> None:
    assert wire.read_command(io.BytesIO(wire.encode_command(command))) == command


async def test_messages_arrive_unchanged_one_by_one_and_as_one_frame() -> None:
    data = b"".join(wire.encode_messages([message]) for message in MESSAGES) + wire.encode_messages(MESSAGES)
    assert await read_all(data) == [*([message] for message in MESSAGES), MESSAGES]


def test_commands_follow_each_other() -> None:
    source = io.BytesIO(b"".join(map(wire.encode_command, COMMANDS)))
    assert [wire.read_command(source) for _ in COMMANDS] == COMMANDS
    assert wire.read_command(source) is None


def test_a_command_cut_anywhere_reads_as_the_end() -> None:
    frame = wire.encode_command(COMMANDS[1])
    assert all(wire.read_command(io.BytesIO(frame[:length])) is None for length in range(len(frame)))


def test_a_service_that_goes_away_with_tokens_unread_reads_as_the_end() -> None:
    """The operating system then resets the connection."""
    ours, theirs = socket.socketpair()
    theirs.sendall(wire.encode_messages(MESSAGES))
    ours.close()
    with theirs, theirs.makefile("rb") as source:
        assert wire.read_command(source) is None


async def test_messages_cut_anywhere_read_as_the_end() -> None:
    whole, cut = wire.encode_messages(MESSAGES[:2]), wire.encode_messages(MESSAGES[2:4])
    for length in range(len(cut)):
        assert await read_all(whole + cut[:length]) == [MESSAGES[:2]]


INPUTS = st.one_of(
    st.builds(TextInput, text=st.text()),
    st.builds(ChatInput, messages=st.lists(st.tuples(st.text(), st.text())).map(tuple)),
    st.builds(PartsInput),
    st.builds(TokenInput, ids=st.lists(st.integers(0, 2**32)).map(tuple)),
)
REQUESTS = st.builds(
    generation,
    INPUTS,
    temperature=st.floats(0, 2),
    logit_bias=st.dictionaries(st.integers(0, 2**31), st.floats(-100, 100)),
    seed=st.integers(0, 2**64 - 1),
    max_tokens=st.none() | st.integers(1, 2**31),
    stop_strings=st.lists(st.text()).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 2**31)).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
    resume_ids=st.lists(st.integers(0, 2**31)).map(tuple),
)


@settings(max_examples=40)
@given(request=REQUESTS, stream=st.integers(0, 2**63))
def test_any_request_arrives_unchanged(request: GenerationRequest, stream: int) -> None:
    command = wire.Submit(stream, request)
    assert wire.read_command(io.BytesIO(wire.encode_command(command))) == command
