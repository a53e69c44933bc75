"""Every kind of bad input is refused by name, and the server goes on as if nothing had happened."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from tests.integration.states import idle
from tests.integration.tokens import CONTEXT_TOKENS, VOCAB_SIZE
from tests.service.calls import GenerateCall, endless, generate, refused, start
from tests.service.faults import OF_THE_INPUT, WITH_AN_INPUT, Fault, name
from tests.service.refusals import Refusal, refusal
from tests.service.servers import Stubs

INVALID = grpc.StatusCode.INVALID_ARGUMENT
START = pb.GenerateRequest(start=start())

# What only the model can tell.
OF_THE_MODEL = [
    Fault({"prompt": "story " * CONTEXT_TOKENS}, "start.prompt", "room for output"),
    Fault({"tokens": {"ids": [5] * CONTEXT_TOKENS}}, "start.tokens.ids", "room for output"),
    Fault(
        {"chat": {"messages": [{"role": "user", "content": "story " * CONTEXT_TOKENS}]}},
        "start.chat",
        "room for output",
    ),
    Fault({"tokens": {"ids": [5, VOCAB_SIZE]}}, "start.tokens.ids", f"got {VOCAB_SIZE}"),
    Fault({"tokens": {"ids": [2**32 - 1]}}, "start.tokens.ids", "below the vocabulary size"),
    Fault({"prompt": "x", "sampling": {"top_k": VOCAB_SIZE}}, "start.sampling.top_k", f"got {VOCAB_SIZE}"),
    Fault({"prompt": "x", "sampling": {"top_k": 2**32 - 1}}, "start.sampling.top_k", "below"),
    Fault({"prompt": "x", "sampling": {"logit_bias": {VOCAB_SIZE: 1}}}, "start.sampling.logit_bias", "below"),
    Fault(
        {"prompt": "x", "stopping": {"stop_token_ids": [VOCAB_SIZE]}},
        "start.stopping.stop_token_ids",
        "below",
    ),
    Fault({"prompt": "x", "stopping": {"max_tokens": CONTEXT_TOKENS}}, "start.stopping.max_tokens", "most"),
    Fault({"prompt": "x", "stopping": {"max_tokens": 2**32 - 1}}, "start.stopping.max_tokens", "at most"),
    # More than the server's default number of tokens, which applies here.
    Fault({"prompt": "x", "stopping": {"min_tokens": 257}}, "start.stopping.min_tokens", "max_tokens, 256"),
]


@pytest_asyncio.fixture(autouse=True)
async def goes_on(stubs: Stubs) -> AsyncIterator[None]:
    """After each test: nothing is left behind, the worker is the same, and it still generates."""
    before = await idle(stubs)
    yield
    answer = await generate(stubs.generation, endless(3))
    assert len(answer.token_ids) == 3
    after = await idle(stubs)
    assert (after.workers[0].pid, after.workers[0].restarts) == (before.workers[0].pid, 0)
    assert after.streams.ended.finished > before.streams.ended.finished


def check(found: Refusal, fault: Fault, *, reason: str = "INVALID_REQUEST") -> None:
    code = INVALID if reason == "INVALID_REQUEST" else grpc.StatusCode.UNIMPLEMENTED
    assert (found.code, found.reason, found.domain) == (code, reason, "penstock")
    assert list(found.violations) == [fault.violated]
    assert fault.shown in found.violations[fault.violated]
    assert fault.violated in found.message
    assert found.retry_after_s is None


async def refused_start(stubs: Stubs, fields: dict[str, Any]) -> Refusal:
    return await refused(stubs.generation, pb.GenerateRequest(start=pb.Start(**fields)))


async def test_each_fault_of_a_field_is_named(stubs: Stubs) -> None:
    for fault in WITH_AN_INPUT:
        check(await refused_start(stubs, {"prompt": "x", **fault.fields}), fault)


@pytest.mark.parametrize("fault", OF_THE_INPUT, ids=name)
async def test_a_wrong_input_is_named(stubs: Stubs, fault: Fault) -> None:
    check(await refused_start(stubs, fault.fields), fault)


@pytest.mark.parametrize("fault", OF_THE_MODEL, ids=name)
async def test_what_the_model_cannot_take_is_named(stubs: Stubs, fault: Fault) -> None:
    check(await refused_start(stubs, fault.fields), fault)


async def test_several_faults_are_named_at_once(stubs: Stubs) -> None:
    fields = {
        "request_id": "r" * 200,
        "prompt": "",
        "sampling": {"temperature": -1.0, "top_p": 2.0, "logit_bias": {3: 200.0}},
        "stopping": {"max_tokens": 0, "stop_strings": [""]},
        "output": {"logprobs": 50},
    }
    found = await refused_start(stubs, fields)
    assert found.violations.keys() == {
        "start.request_id",
        "start.prompt",
        "start.sampling.temperature",
        "start.sampling.top_p",
        "start.sampling.logit_bias[3]",
        "start.stopping.max_tokens",
        "start.stopping.stop_strings[0]",
        "start.output.logprobs",
    }


async def test_an_unknown_model_is_not_found(stubs: Stubs) -> None:
    found = await refused_start(stubs, {"prompt": "x", "model": "gpt"})
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert list(found.violations) == ["start.model"]
    assert '"gpt"' in found.message
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.generation.CountTokens(pb.CountTokensRequest(model="gpt", prompt="x"))
    assert refusal(caught.value).reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("request_fields", "violated"),
    [({}, "input"), ({"prompt": ""}, "prompt"), ({"chat": {"messages": []}}, "chat.messages")],
)
async def test_a_wrong_count_is_refused(stubs: Stubs, request_fields: dict[str, Any], violated: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.generation.CountTokens(pb.CountTokensRequest(**request_fields))
    found = refusal(caught.value)
    assert (found.code, found.reason) == (INVALID, "INVALID_REQUEST")
    assert list(found.violations) == [violated]


@pytest.mark.parametrize(
    ("first", "got"),
    [
        (pb.GenerateRequest(ack=pb.Ack(seq=1)), "got ack"),
        (pb.GenerateRequest(cancel=pb.Cancel()), "got cancel"),
        (pb.GenerateRequest(prompt_part=pb.PromptPart(text="x")), "got prompt_part"),
        (pb.GenerateRequest(), "got none"),
        (None, "got none"),
    ],
    ids=["ack", "cancel", "prompt_part", "empty", "nothing at all"],
)
async def test_the_first_message_must_be_start(
    stubs: Stubs, first: pb.GenerateRequest | None, got: str
) -> None:
    found = await refused(stubs.generation, *([first] if first else []))
    assert (found.code, found.reason) == (INVALID, "PROTOCOL_VIOLATION")
    assert "the first message must be start" in found.message
    assert got in found.message


@pytest.mark.parametrize(
    ("message", "code", "reason", "shown"),
    [
        ({"start": start()}, INVALID, "PROTOCOL_VIOLATION", "start came twice"),
        ({}, INVALID, "PROTOCOL_VIOLATION", "one of prompt_part, ack, cancel"),
        (
            {"prompt_part": {"text": "x"}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "PROTOCOL_VIOLATION",
            "start has no prompt_parts",
        ),
    ],
    ids=["second start", "empty message", "prompt_part"],
)
async def test_what_must_not_follow_start(
    stubs: Stubs, message: dict[str, Any], code: grpc.StatusCode, reason: str, shown: str
) -> None:
    async with GenerateCall(stubs.generation) as call:
        accepted = await call.start(endless(900))
        await call.send(**message)
        found = await call.refused()
    assert (found.code, found.reason) == (code, reason)
    assert shown in found.message
    assert found.metadata == {"request_id": accepted.request_id}


async def test_a_message_that_is_too_large_is_refused(stubs: Stubs) -> None:
    found = await refused_start(stubs, {"prompt": "x" * 5 * 2**20})
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_is_too_large_after_start_is_refused(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(900, flow={"max_unacked_chunks": 1}))
        await call.send(cancel=pb.Cancel(reason="x" * 5 * 2**20))
        found = await call.refused()
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def with_wrong_utf8() -> bytes:
    """A start whose prompt is not UTF-8."""
    return pb.GenerateRequest(start=start("PROMPT")).SerializeToString().replace(b"PROMPT", b"PR\xff\xfeMPT")


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x0a\x7f", with_wrong_utf8()])
@pytest.mark.parametrize("after_start", [False, True])
async def test_bytes_that_are_no_message_are_refused(stubs: Stubs, data: bytes, after_start: bool) -> None:
    call: Any = stubs.channel.stream_stream("/penstock.v1.GenerationService/Generate")()
    if after_start:
        message = endless(900, flow={"max_unacked_chunks": 1})
        await call.write(pb.GenerateRequest(start=message).SerializeToString())
        assert pb.GenerateResponse.FromString(await call.read()).HasField("accepted")
    await call.write(data)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await to_the_end(call)
    found = refusal(caught.value)
    assert (found.code, found.reason) == (INVALID, "PROTOCOL_VIOLATION")


async def test_bad_input_beside_a_good_stream_does_not_touch_it(stubs: Stubs) -> None:
    alone = await generate(stubs.generation, endless(60))
    bad = asyncio.gather(*(refused_start(stubs, fault.fields) for fault in OF_THE_MODEL))
    good = await generate(stubs.generation, endless(60))
    assert good.token_ids == alone.token_ids
    assert {found.code for found in await bad} == {INVALID}
