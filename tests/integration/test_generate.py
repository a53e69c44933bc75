"""Generation from end to end, on the real server with the embedded model."""

import asyncio
import time
from typing import Any

import pytest

from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import Status
from tests.integration.tokens import CONTEXT_TOKENS, EOS_ID, TOKENIZER, ids_of, text_of
from tests.service.calls import Answer, endless, generate, start
from tests.service.servers import Stubs

PROMPT = "Once upon a time"
CHAT = {"messages": [{"role": "user", "content": "Tell me a story."}]}


async def test_a_stream_follows_the_contract(stubs: Stubs) -> None:
    began_s = time.monotonic()
    answer = await generate(stubs.generation, endless(48, request_id="mine", model="penstock-tiny"))
    took_ms = (time.monotonic() - began_s) * 1e3
    assert answer.accepted is not None
    assert (answer.accepted.request_id, answer.accepted.model) == ("mine", "penstock-tiny")
    assert (answer.accepted.max_unacked_chunks, answer.accepted.max_tokens_per_chunk) == (100, 16)
    assert answer.text.strip()
    assert answer.end.reason == pb.FINISH_REASON_LENGTH
    assert answer.end.usage.completion_tokens == 48
    assert answer.end.usage.cached_prompt_tokens == 0
    timing = answer.end.timing
    assert min(timing.prefill_ms, timing.first_token_ms, timing.decode_ms) > 0
    assert timing.queue_ms >= 0
    assert timing.stalled_ms == 0
    assert timing.first_token_ms <= took_ms
    assert timing.queue_ms + timing.prefill_ms + timing.decode_ms <= took_ms


async def test_a_stream_counts_in_the_status(stubs: Stubs) -> None:
    before: Status = await stubs.status()
    await generate(stubs.generation, endless(5))
    after: Status = await stubs.status()
    assert after.streams.ended.finished == before.streams.ended.finished + 1
    assert after.workers[0].pid > 0
    assert (after.workers[0].restarts, after.workers[0].cpu_blas) == (0, "")


async def test_text_is_what_the_tokenizer_makes_of_the_ids(stubs: Stubs) -> None:
    answer = await generate(stubs.generation, endless(120, sampling={"seed": 3}))
    assert answer.text == text_of(answer.token_ids, after=ids_of(PROMPT))


@pytest.mark.parametrize("model_input", [{"prompt": PROMPT}, {"chat": CHAT}])
async def test_the_prompt_counts_as_count_tokens_says(stubs: Stubs, model_input: dict[str, Any]) -> None:
    counted = await stubs.generation.CountTokens(pb.CountTokensRequest(**model_input))
    answer = await generate(stubs.generation, endless(8, **model_input))
    assert answer.end.usage.prompt_tokens == counted.prompt_tokens > 0
    assert counted.model == "penstock-tiny"


async def test_token_ids_are_taken_as_they_are(stubs: Stubs) -> None:
    as_text = await generate(stubs.generation, endless(30))
    as_ids = await generate(stubs.generation, endless(30, tokens={"ids": ids_of(PROMPT)}))
    assert as_ids.end.usage.prompt_tokens == as_text.end.usage.prompt_tokens
    assert as_ids.token_ids == as_text.token_ids
    assert as_ids.text == as_text.text


async def test_temperature_0_repeats_itself(stubs: Stubs) -> None:
    first, second = [await generate(stubs.generation, endless(60)) for _ in range(2)]
    assert first.token_ids == second.token_ids


def sampled(seed: int | None) -> pb.Start:
    options: dict[str, Any] = {"temperature": 1.5, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
    return endless(60, sampling={**options, "seed": seed})


async def test_a_seed_repeats_a_sampled_stream_alone_and_among_others(stubs: Stubs) -> None:
    alone, again = [await generate(stubs.generation, sampled(2**63 + 5)) for _ in range(2)]
    assert alone.accepted is not None
    assert alone.accepted.seed == 2**63 + 5
    assert again.token_ids == alone.token_ids
    others = [generate(stubs.generation, sampled(seed)) for seed in range(16)]
    among, *rest = await asyncio.gather(generate(stubs.generation, sampled(2**63 + 5)), *others)
    assert among.token_ids == alone.token_ids
    assert len({tuple(answer.token_ids) for answer in rest}) > 8


async def test_a_seed_that_the_server_drew_repeats_its_stream(stubs: Stubs) -> None:
    drawn = await generate(stubs.generation, sampled(None))
    assert drawn.accepted is not None
    repeated = await generate(stubs.generation, sampled(drawn.accepted.seed))
    assert repeated.token_ids == drawn.token_ids


async def test_many_streams_at_once_do_not_mix(stubs: Stubs) -> None:
    prompts = ["Once upon a time", "The little dragon", "In the deep blue sea", "A girl named Zoë"]
    alone = [await generate(stubs.generation, endless(40, prompt=prompt)) for prompt in prompts]
    calls = [generate(stubs.generation, endless(40, prompt=prompts[n % 4])) for n in range(36)]
    together: list[Answer] = await asyncio.gather(*calls)
    for number, answer in enumerate(together):
        assert answer.token_ids == alone[number % 4].token_ids
        assert answer.text == alone[number % 4].text


@pytest.mark.parametrize("wanted", [0, 3])
async def test_logprobs(stubs: Stubs, wanted: int) -> None:
    answer = await generate(stubs.generation, endless(20, output={"logprobs": wanted}))
    assert len(answer.logprobs) == len(answer.token_ids) == 20
    for token_id, one in zip(answer.token_ids, answer.logprobs, strict=True):
        assert one.logprob <= 0
        assert len(one.top) == wanted
        values = [top.logprob for top in one.top]
        assert values == sorted(values, reverse=True)
        if wanted:
            # At temperature 0 the most likely token is the one that was chosen.
            assert one.top[0].token_id == token_id
            assert one.top[0].logprob == pytest.approx(one.logprob, abs=1e-4)


async def test_logprobs_and_timing_are_absent_unless_asked_for(stubs: Stubs) -> None:
    answer = await generate(stubs.generation, endless(5))
    assert not answer.logprobs
    assert not any(chunk.HasField("timing") for chunk in answer.chunks)


async def test_chunk_timing_goes_forward(stubs: Stubs) -> None:
    answer = await generate(stubs.generation, endless(30, output={"chunk_timing": True}))
    engine_ms = [chunk.timing.engine_ms for chunk in answer.chunks]
    assert engine_ms == sorted(engine_ms)
    assert all(chunk.timing.written_ms >= chunk.timing.engine_ms for chunk in answer.chunks)


async def test_the_default_number_of_tokens_is_the_servers(stubs: Stubs) -> None:
    message = start(stopping={"ignore_eos": True}, sampling={"temperature": 0})
    answer = await generate(stubs.generation, message)
    assert answer.end.usage.completion_tokens == 256


async def test_a_prompt_that_almost_fills_the_context_gets_what_is_left(stubs: Stubs) -> None:
    ids = [*ids_of(PROMPT), *[5] * CONTEXT_TOKENS][: CONTEXT_TOKENS - 3]
    message = start(tokens={"ids": ids}, stopping={"ignore_eos": True})
    answer = await generate(stubs.generation, message)
    assert answer.end.usage.completion_tokens == 3
    assert answer.end.reason == pb.FINISH_REASON_LENGTH


def test_special_tokens_are_where_these_tests_expect_them() -> None:
    assert TOKENIZER.decode([EOS_ID]) == ""


def test_the_synchronous_stub_of_pytest_grpc_streams_too(grpc_stub: Any) -> None:
    answer = Answer()
    for message in grpc_stub.Generate(iter([pb.GenerateRequest(start=endless(12))])):
        answer.take(message)
    assert answer.end.usage.completion_tokens == 12
