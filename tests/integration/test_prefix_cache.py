"""Prompts that begin alike, through the real server and worker."""

from penstock.v1.input_pb2 import ChatInput, ChatMessage
from penstock.v1.status_pb2 import PrefixCache
from tests.integration.states import idle
from tests.service.calls import Answer, endless, generate
from tests.service.eventually import eventually
from tests.service.servers import Stubs

STORY = "Lily and her brown dog walked along the river to see the red boat. " * 8
TURNS = 5


async def counted(stubs: Stubs, **fields: object) -> tuple[Answer, PrefixCache]:
    """One stream, and what it added to the counters of the worker."""
    before = (await idle(stubs)).workers[0].prefix_cache
    streams = before.hits + before.misses
    answer = await generate(stubs.generation, endless(16, **fields))
    # They come with a heartbeat.
    status = await eventually(
        stubs.status, lambda s: s.workers[0].prefix_cache.hits + s.workers[0].prefix_cache.misses > streams
    )
    after = status.workers[0].prefix_cache
    return answer, PrefixCache(
        hits=after.hits - before.hits,
        misses=after.misses - before.misses,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        cached_prompt_tokens=after.cached_prompt_tokens - before.cached_prompt_tokens,
    )


async def test_each_turn_of_a_chat_finds_the_turns_before_it(stubs: Stubs) -> None:
    messages = [ChatMessage(role="user", content=STORY)]
    computed: list[int] = []
    cached: list[int] = []
    for turn in range(TURNS):
        answer, cache = await counted(
            stubs, chat=ChatInput(messages=messages), cache_salt="a chat of its own"
        )
        assert cache.prompt_tokens == answer.end.usage.prompt_tokens
        computed.append(cache.prompt_tokens - cache.cached_prompt_tokens)
        cached.append(cache.cached_prompt_tokens)
        messages.append(ChatMessage(role="assistant", content=answer.text))
        messages.append(ChatMessage(role="user", content=f"What did the dog say in chapter {turn}?"))
    assert cached[0] == 0
    assert cached == sorted(set(cached))
    # What is new: the question, and of the answer what is tokenised otherwise as part of a text.
    assert max(computed[1:]) < 60 < computed[0]


async def test_salts_share_nothing_and_give_the_same(stubs: Stubs) -> None:
    texts: list[str] = []
    hits: list[int] = []
    for salt in ("one", "other", "one", "other"):
        answer, cache = await counted(stubs, prompt=STORY, cache_salt=salt)
        texts.append(answer.text)
        hits.append(cache.hits)
    assert hits == [0, 0, 1, 1]
    assert len(set(texts)) == 1
