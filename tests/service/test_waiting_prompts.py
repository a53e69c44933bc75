"""What the engine is told of a stream that waits for its permit, and whose prefix cache it may share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.contract import EngineError, EventSink
from engine.requests import GenerationRequest
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.reasons import Reason
from penstock.tenant import tenant_metadata
from service.start_message import read_start
from tests.engine.waiting import eventually
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import GenerateCall, endless, start
from tests.service.servers import serving


class RecordingEngine(ScriptedEngine):
    """Keeps what it was asked. busy: refuses to submit."""

    def __init__(self) -> None:
        super().__init__(counting_script, step_s=0.0)
        self.prepared: list[GenerationRequest] = []
        self.submitted: list[tuple[GenerationRequest, int]] = []
        self.forgotten: list[int] = []
        self.busy = False

    def prepare(self, request: GenerationRequest) -> int:
        self.prepared.append(request)
        return 100 + len(self.prepared)

    def forget(self, prepared: int) -> None:
        self.forgotten.append(prepared)

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        if self.busy:
            raise EngineError(Reason.WORKER_STUCK, "busy")
        self.submitted.append((request, prepared))
        return super().submit(request, sink, prepared=prepared)


@asynccontextmanager
async def queued(engine: RecordingEngine, **fields: Any) -> AsyncIterator[tuple[GenerateCall, GenerateCall]]:
    """A call that holds the only permit, and one that waits for it. fields: of its start."""
    async with (
        serving(engine, governor=governor_options(initial_streams=1)) as server,
        GenerateCall(server.stubs.generation) as holder,
        GenerateCall(server.stubs.generation) as waiting,
    ):
        await holder.start(endless(2000, flow={"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}))
        await waiting.start(start(**{"stopping": {"max_tokens": 2}, **fields}))
        await waiting.read()
        assert waiting.answer.progress[0].queue_position == 1
        yield holder, waiting


@pytest.mark.parametrize(
    "fields", [{}, {"chat": {"messages": [{"role": "user", "content": "Hello"}]}}], ids=["text", "chat"]
)
async def test_a_stream_that_waits_is_prepared_once_and_submitted_with_it(fields: dict[str, Any]) -> None:
    engine = RecordingEngine()
    async with queued(engine, **fields) as (holder, waiting):
        assert len(engine.prepared) == 1
        holder.cancel()
        await waiting.rest()
    assert [prepared for _, prepared in engine.submitted] == [0, 101]
    assert engine.submitted[1][0] == engine.prepared[0]
    assert engine.forgotten == []


@pytest.mark.parametrize("fields", [{"tokens": {"ids": [1, 2]}}, {"prompt_parts": {}}], ids=["ids", "parts"])
async def test_what_needs_no_tokenising_is_not_prepared(fields: dict[str, Any]) -> None:
    engine = RecordingEngine()
    async with queued(engine, **fields):
        pass
    assert (engine.prepared, engine.forgotten) == ([], [])


async def test_one_that_leaves_the_queue_is_forgotten() -> None:
    engine = RecordingEngine()
    async with queued(engine) as (_, waiting):
        waiting.cancel()
        await eventually(lambda: engine.forgotten == [101])
    assert len(engine.submitted) == 1


async def test_one_that_the_engine_refuses_is_forgotten() -> None:
    engine = RecordingEngine()
    async with queued(engine) as (holder, waiting):
        engine.busy = True
        holder.cancel()
        assert (await waiting.refused()).reason == "WORKER_STUCK"
    assert engine.forgotten == [101]


async def test_one_whose_engine_is_down_waits_and_is_refused_when_that_is_for_good() -> None:
    engine = RecordingEngine()
    async with queued(engine) as (holder, waiting):
        engine.die()
        assert (await holder.refused()).reason == "WORKER_LOST"
        reading = asyncio.create_task(waiting.refused())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not reading.done()
        engine.die(for_good=True)
        assert (await reading).reason == "CRASH_LOOP"
    assert engine.forgotten == [101]


async def test_a_stream_that_does_not_wait_is_not_prepared() -> None:
    engine = RecordingEngine()
    async with serving(engine) as server, GenerateCall(server.stubs.generation) as call:
        await call.start(endless(2))
        await call.half_close()
        await call.rest()
    assert engine.prepared == []


async def salt(tenant: str | None, cache_salt: str) -> str:
    """What the engine gets of a call."""
    engine = RecordingEngine()
    metadata = tenant_metadata(tenant)
    async with serving(engine) as server, GenerateCall(server.stubs.generation, metadata=metadata) as call:
        await call.start(endless(1, cache_salt=cache_salt))
        await call.half_close()
        await call.rest()
    return engine.submitted[0][0].cache_salt


async def test_the_salt_holds_the_tenant() -> None:
    callers = [("acme", "x"), ("acme", "y"), ("other", "x"), (None, "x"), ("acme", "x")]
    *salts, again = [await salt(tenant, own) for tenant, own in callers]
    assert len(set(salts)) == 4
    assert again == salts[0]


def test_no_two_pairs_of_tenant_and_salt_collide() -> None:
    pairs = [
        (tenant, salt)
        for tenant in ("", "a", "ab", "1:a", "1", ":", "2:ab", "1:")
        for salt in ("", "a", "b", "1:a", ":a", "ab", ":", "0:")
    ]
    salts = {read_start(start(cache_salt=own)).of_tenant(tenant).request.cache_salt for tenant, own in pairs}
    assert len(salts) == len(pairs)
