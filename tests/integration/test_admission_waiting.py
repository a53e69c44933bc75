"""Streams that wait for admission: what they hear, what they leave behind, and how many start."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from penstock.v1 import status_pb2
from tests.integration.admission_calls import (
    HELD_TOKENS,
    Declined,
    TenantCall,
    at_rest,
    declined,
    fixed_limit,
    held,
    holding,
    outcome_of,
    queued,
    scripted,
    set_limit,
    streams_of,
    waiting,
)
from tests.integration.processes import ServerProcess, penstock
from tests.integration.states import stalled
from tests.service.calls import Answer, GenerateCall, endless, start
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

LIMIT = 2
MAX_QUEUED = 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = fixed_limit(LIMIT, ADMISSION__QUEUE__MAX_REQUESTS=str(MAX_QUEUED))
    with scripted(tmp_path_factory.mktemp("waiting"), options) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await at_rest(stubs)
        await set_limit(stubs, LIMIT)
        yield stubs


async def test_one_beyond_the_limit_is_accepted_told_its_position_and_answered(stubs: Stubs) -> None:
    first, second = await holding(stubs), await holding(stubs)
    async with GenerateCall(stubs.generation) as call:
        began_s = time.monotonic()
        accepted = await call.start(endless(7, request_id="late"))
        assert accepted.request_id == "late"
        await call.read()
        assert [one.queue_position for one in call.answer.progress] == [1]
        (stream,) = [one for name, one in (await streams_of(stubs)).items() if name == "late"]
        assert (stream.state, stream.queue_position) == (status_pb2.STREAM_STATE_QUEUED, 1)
        await call.half_close()
        await first.let_go()
        waited_ms = (time.monotonic() - began_s) * 1e3
        answer = await call.rest()
    assert answer.token_ids == list(range(1, 8))
    timing = answer.end.timing
    # All of the wait but the time of a few messages: `first` ended after its last tokens, 10 ms apart.
    assert waited_ms * 0.5 < timing.admission_ms < waited_ms + 500
    assert timing.admission_ms <= timing.queue_ms <= timing.first_token_ms
    await second.let_go()


async def test_one_within_the_limit_does_not_wait(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(3))
        await call.half_close()
        answer = await call.rest()
    assert all(not one.queue_position for one in answer.progress)
    assert answer.end.timing.admission_ms < 50


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_who_leaves_the_queue_frees_the_place_at_once(stubs: Stubs, way: str) -> None:
    holders = [await holding(stubs) for _ in range(LIMIT)]
    before = await stubs.status()
    call = TenantCall(stubs.generation)
    await call.start(held())
    assert (await queued(stubs, 1)).admission.queued_tokens > HELD_TOKENS
    if way == "cancel":
        await call.send(cancel=pb.Cancel())
        answer = await call.rest()
        assert answer.end.reason == pb.FINISH_REASON_CANCELLED
        assert answer.end.usage.completion_tokens == 0
        # The client has the end of the stream, so its place is free.
        after = await stubs.status()
        assert after.admission.limits.queued == 0
    else:
        call.cancel()
        after = await eventually(stubs.status, lambda s: not s.admission.limits.queued, within_s=2.0)
    assert after.admission.queued_tokens == 0
    assert after.streams.ended.cancelled == before.streams.ended.cancelled + 1
    assert after.streams.active == LIMIT
    for holder in holders:
        await holder.let_go()
    assert (await at_rest(stubs)).admission.admitted == before.admission.admitted


async def test_a_deadline_that_passes_in_the_queue_is_never_run(stubs: Stubs) -> None:
    holders = [await holding(stubs) for _ in range(LIMIT)]
    before = await stalled(stubs, LIMIT)
    async with TenantCall(stubs.generation, timeout_s=2.0) as call:
        await call.start(endless(5))
        await queued(stubs, 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.rest()
    # The server gives up first when it knows how long a first token takes.
    said = declined(caught.value)
    assert (said.code, said.reason) in {
        (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "WOULD_MISS_DEADLINE"),
    }
    after = await eventually(stubs.status, lambda s: not s.admission.limits.queued, within_s=1.0)
    assert after.workers[0].generated_tokens == before.workers[0].generated_tokens
    for holder in holders:
        await holder.let_go()
    status = await at_rest(stubs)
    assert status.admission.admitted == before.admission.admitted
    assert not call.answer.chunks


async def test_pieces_of_a_prompt_that_come_while_it_waits_are_all_there(stubs: Stubs) -> None:
    holders = [await holding(stubs) for _ in range(LIMIT)]
    whole = await waiting(stubs, start("one two three four five six seven", stopping={"max_tokens": 4}))
    async with GenerateCall(stubs.generation) as call:
        await call.start(start(prompt_parts={}, stopping={"max_tokens": 4}))
        for text in ("one two th", "ree four", " five"):
            await call.send(prompt_part=pb.PromptPart(text=text))
        await call.send(prompt_part=pb.PromptPart(text=" six seven", last=True))
        await call.half_close()
        assert (await queued(stubs, 2)).workers[0].waiting_rows == 0
        for holder in holders:
            await holder.let_go()
        answer = await call.rest()
    assert answer.end.usage == (await whole.rest()).end.usage
    assert answer.end.usage.prompt_tokens == 7
    assert answer.token_ids == whole.answer.token_ids == [1, 2, 3, 4]


async def test_a_higher_limit_starts_as_many_as_it_says_and_a_lower_one_drops_nobody(stubs: Stubs) -> None:
    before = await stubs.status()
    calls = [await holding(stubs) for _ in range(LIMIT)]
    calls += [await TenantCall(stubs.generation).hold() for _ in range(8)]
    assert await numbers(stubs) == (2, 2, 8)
    await set_limit(stubs, 5)
    assert await numbers(stubs) == (5, 5, 5)
    assert (await stubs.status()).streams.max_active == 5
    await set_limit(stubs, 1)
    assert await numbers(stubs) == (1, 5, 5)
    # Five of them must end before the next one may start.
    for call in calls[:4]:
        await call.let_go()
    assert await numbers(stubs) == (1, 1, 5)
    await calls[4].let_go()
    assert await numbers(stubs) == (1, 1, 4)
    await set_limit(stubs, 6)
    await asyncio.gather(*(call.let_go() for call in calls[5:]))
    after = await at_rest(stubs)
    assert after.admission.refused == before.admission.refused
    assert after.streams.ended.finished == before.streams.ended.finished + 10


async def test_the_command_raises_the_limit(stubs: Stubs, server: ServerProcess) -> None:
    calls = [await holding(stubs) for _ in range(LIMIT)]
    calls += [await TenantCall(stubs.generation).hold() for _ in range(3)]
    limits = ("limits", "--min", "4", "--max", "4", "--target", server.address)
    done = await asyncio.to_thread(penstock, *limits)
    assert done.returncode == 0, done.stderr
    assert "2 streams -> 4 streams" in done.stdout
    assert await numbers(stubs) == (4, 4, 1)
    await asyncio.gather(*(call.let_go() for call in calls))


async def numbers(stubs: Stubs) -> tuple[int, int, int]:
    """The limit, streams in flight, and those that wait."""
    limits = (await stubs.status()).admission.limits
    return limits.limit, limits.in_flight, limits.queued


async def test_a_burst_never_overshoots_the_bounds(stubs: Stubs) -> None:
    await set_limit(stubs, 8)
    began = await stubs.status()
    done = asyncio.Event()
    most_queued = most_in_flight = most_rows = 0

    async def one(number: int) -> Answer | Declined:
        """Each of a tenant of its own, which may have one waiting whatever the others have."""
        async with TenantCall(stubs.generation, f"tenant-{number}") as call:
            await call.send(start=endless(30))
            await call.half_close()
            return await outcome_of(call)

    async def watch() -> None:
        nonlocal most_queued, most_in_flight, most_rows
        while not done.is_set():
            status = await stubs.status()
            most_queued = max(most_queued, status.admission.limits.queued)
            most_in_flight = max(most_in_flight, status.admission.limits.in_flight)
            most_rows = max(most_rows, status.workers[0].running_rows)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    outcomes = await asyncio.gather(*(one(number) for number in range(200)))
    done.set()
    await watching
    assert (most_queued, most_in_flight) == (MAX_QUEUED, 8)
    assert most_rows <= 8
    refusals = [one for one in outcomes if isinstance(one, Declined)]
    answers = [one for one in outcomes if isinstance(one, Answer)]
    assert {one.reason for one in refusals} == {"QUEUE_FULL"}
    assert all(one.code is grpc.StatusCode.RESOURCE_EXHAUSTED and one.retry_after_s for one in refusals)
    assert all(one.token_ids == list(range(1, 31)) for one in answers)
    assert len(answers) >= 8 + MAX_QUEUED
    after = await at_rest(stubs)
    assert after.admission.admitted - began.admission.admitted == len(answers)
    before_full, full = began.admission.refused["QUEUE_FULL"], after.admission.refused["QUEUE_FULL"]
    assert full - before_full == len(refusals)
