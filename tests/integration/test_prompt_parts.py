"""A prompt that goes up in pieces gives what the same text in one piece gives."""

from penstock import Client
from penstock.v1 import generation_pb2 as pb
from tests.integration.states import idle
from tests.integration.tokens import used
from tests.service.calls import GenerateCall, endless
from tests.service.servers import Stubs

STORY = "Once upon a time Zoë found a \N{FOX FACE} behind the garden gate. " * 30


async def test_the_client_cuts_a_long_prompt_and_nobody_notices(grpc_addr: str) -> None:
    async with Client(grpc_addr) as whole, Client(grpc_addr, request_chunk_bytes=1024) as cutting:
        one, parts = (
            client.generate(STORY, max_tokens=30, temperature=0.0, ignore_eos=True)
            for client in (whole, cutting)
        )
        ids = [[token async for chunk in stream for token in chunk.token_ids] for stream in (one, parts)]
    assert ids[0] == ids[1]
    assert one.text == parts.text
    assert used(one.finished) == used(parts.finished)


async def test_the_model_begins_before_the_last_piece(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(5, prompt_parts={}))
        await call.send(prompt_part=pb.PromptPart(text=STORY))
        while not call.answer.progress or not call.answer.progress[-1].prompt_tokens_done:
            await call.read()
        assert not call.answer.chunks
        await call.send(prompt_part=pb.PromptPart(text="The end.", last=True))
        await call.half_close()
        answer = await call.rest()
    assert len(answer.token_ids) == 5
    assert answer.end.usage.prompt_tokens > answer.progress[0].prompt_tokens_total


async def test_leaving_in_the_middle_frees_the_prompt(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(5, prompt_parts={}))
        await call.send(prompt_part=pb.PromptPart(text=STORY))
        while not call.answer.progress:
            await call.read()
    status = await idle(stubs)
    assert (status.workers[0].kv_bytes, status.workers[0].parked_kv_bytes) == (0, 0)
