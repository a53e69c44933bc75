"""Every refusal of admission as a caller sees it: status, reason, when to try again, and whose quota."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from tests.integration.admission_calls import (
    Declined,
    TenantCall,
    at_rest,
    fixed_limit,
    held,
    holding,
    queued,
    refusal_of,
    scripted,
    turned_away,
)
from tests.integration.processes import ServerProcess
from tests.integration.raw_http2 import raw_call
from tests.service.calls import GenerateCall, endless, generate, refused
from tests.service.eventually import eventually
from tests.service.refusals import Refusal
from tests.service.servers import Stubs, stubs_of

GENERATE = "/penstock.v1.GenerationService/Generate"
LIMIT = 2
# So long that none of these tests waits for it, and so short that those of its own do.
LONG_TTL_S, SHORT_TTL_S = 60.0, 0.6
MAX_RETRY_S = 20.0
TENANTS = """
tenants:
  rare: {requests_per_s: 0.01}
  small: {tokens_per_s: 1}
  single: {max_streams: 1}
"""


@contextmanager
def refusing(folder: Path, ttl_s: float) -> Iterator[ServerProcess]:
    tenants = folder / "tenants.yaml"
    tenants.write_text(TENANTS)
    options = fixed_limit(
        LIMIT,
        ADMISSION__QUEUE__MAX_REQUESTS="3",
        ADMISSION__QUEUE__TTL_MS=f"{ttl_s * 1e3:.0f}",
        ADMISSION__MAX_RETRY_MS=f"{MAX_RETRY_S * 1e3:.0f}",
        ADMISSION__TENANTS__FILE=str(tenants),
    )
    with scripted(folder, options) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with refusing(tmp_path_factory.mktemp("refusals"), LONG_TTL_S) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await at_rest(stubs)
        yield stubs


@pytest.fixture(scope="module")
def impatient_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with refusing(tmp_path_factory.mktemp("impatient"), SHORT_TTL_S) as server:
        yield server


@pytest_asyncio.fixture
async def impatient(impatient_server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(impatient_server.address) as stubs:
        await at_rest(stubs)
        yield stubs


def check(refusal: Declined, reason: str, **quotas: str) -> None:
    """quotas: descriptions by tenant."""
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
    assert refusal.domain == "penstock"
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= MAX_RETRY_S
    assert refusal.quotas == {f"tenant:{name}": text for name, text in quotas.items()}


async def test_a_full_queue(stubs: Stubs) -> None:
    holders = [await holding(stubs) for _ in range(LIMIT)]
    before = await stubs.status()
    calls = [await TenantCall(stubs.generation, name).hold() for name in ("a", "b", "c")]
    check(await turned_away(stubs, endless(3), "d"), "QUEUE_FULL")
    after = await stubs.status()
    assert after.admission.refused["QUEUE_FULL"] == before.admission.refused["QUEUE_FULL"] + 1
    assert after.streams.refused == before.streams.refused + 1
    await asyncio.gather(*(call.let_go() for call in (*holders, *calls)))


async def test_a_queue_that_is_full_for_one_tenant_has_room_for_another(stubs: Stubs) -> None:
    holders = [await holding(stubs) for _ in range(LIMIT)]
    calls = [await TenantCall(stubs.generation, "greedy").hold() for _ in range(2)]
    check(await turned_away(stubs, endless(3), "greedy"), "QUEUE_FULL")
    calls.append(await TenantCall(stubs.generation, "other").hold())
    await asyncio.gather(*(call.let_go() for call in (*holders, *calls)))


async def test_one_that_waited_for_as_long_as_one_may(impatient: Stubs) -> None:
    holders = [await holding(impatient) for _ in range(LIMIT)]
    async with TenantCall(impatient.generation) as call:
        began = await impatient.status()
        await call.send(start=held())
        check(await refusal_of(call), "QUEUE_TIMEOUT")
        ended = await impatient.status()
    assert SHORT_TTL_S <= ended.uptime_s - began.uptime_s < SHORT_TTL_S + 1.0
    assert ended.admission.limits.queued == 0
    assert ended.admission.refused["QUEUE_TIMEOUT"] == began.admission.refused["QUEUE_TIMEOUT"] + 1
    assert ended.streams.ended.failed == began.streams.ended.failed + 1
    for holder in holders:
        await holder.let_go()


async def test_more_requests_in_a_second_than_the_tenant_may_start(impatient: Stubs) -> None:
    async with TenantCall(impatient.generation, "rare") as call:
        await call.hold()
        refusal = await turned_away(impatient, endless(3), "rare")
        check(refusal, "TENANT_LIMIT", rare="more than 0.01 requests per second")
        # Others go on.
        assert len((await generate(impatient.generation, endless(3))).token_ids) == 3
        await call.let_go()


async def test_more_tokens_in_a_second_than_the_tenant_may_have(impatient: Stubs) -> None:
    async with TenantCall(impatient.generation, "small") as call:
        await call.start(endless(30))
        await call.half_close()
        await call.rest()
    refusal = await turned_away(impatient, endless(30), "small")
    check(refusal, "TENANT_LIMIT", small="more than 1 tokens per second")
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 5


async def test_one_that_waited_for_another_stream_of_its_tenant(impatient: Stubs, stubs: Stubs) -> None:
    first = await holding(impatient, "single")
    quota = {"single": "1 streams in flight, as many as it may have"}
    check(await turned_away(impatient, endless(3), "single"), "TENANT_LIMIT", **quota)
    await first.let_go()
    # One with time enough is let in.
    first = await holding(stubs, "single")
    second = await TenantCall(stubs.generation, "single").hold()
    await queued(stubs, 1)
    await first.let_go()
    await second.let_go()


async def test_a_first_token_that_would_come_after_the_callers_deadline(tmp_path: Path) -> None:
    # A server that has seen no stream end, and so expects each to make as much as it may.
    with scripted(tmp_path, fixed_limit(1)) as server:
        async with stubs_of(server.address) as stubs, GenerateCall(stubs.generation) as runner:
            await runner.start(endless(20_000))
            await runner.half_close()
            await eventually(stubs.status, lambda status: status.admission.estimates.HasField("step_ms"))
            began_s = time.monotonic()
            check(await turned_away(stubs, endless(3), timeout_s=20.0), "WOULD_MISS_DEADLINE")
            assert time.monotonic() - began_s < 2.0
            # One with time enough waits.
            async with TenantCall(stubs.generation, timeout_s=3600.0) as call:
                await call.hold()
                await queued(stubs, 1)


async def test_one_too_many_without_a_queue(tmp_path: Path) -> None:
    with scripted(tmp_path, fixed_limit(1, ADMISSION__QUEUE__MAX_REQUESTS="0")) as server:
        async with stubs_of(server.address) as stubs:
            holder = await holding(stubs)
            check(await turned_away(stubs, endless(3)), "TOO_MANY_STREAMS")
            await holder.let_go()
            assert len((await generate(stubs.generation, endless(3))).token_ids) == 3


def check_invalid(refusal: Refusal) -> None:
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_REQUEST"
    assert refusal.violations.keys() == {"x-tenant-id"}
    assert refusal.message.startswith("x-tenant-id: ")


@pytest.mark.parametrize(
    "names", [("a", "b"), ("same", "same"), ("x" * 129,)], ids=["two", "twice", "too long"]
)
async def test_a_tenant_that_is_not_one_name(stubs: Stubs, names: tuple[str, ...]) -> None:
    before = await stubs.status()
    call = TenantCall(stubs.generation, metadata=[("x-tenant-id", name) for name in names])
    await call.send(start=endless(3))
    check_invalid(await call.refused())
    after = await stubs.status()
    assert [one.name for one in after.admission.tenants] == [one.name for one in before.admission.tenants]


async def test_the_longest_name_of_a_tenant_is_taken(stubs: Stubs) -> None:
    async with TenantCall(stubs.generation, "x" * 128) as call:
        await call.start(endless(3))
        await call.half_close()
        await call.rest()
    names = {one.name: one for one in (await stubs.status()).admission.tenants}
    assert names["x" * 128].started == 1


@pytest.mark.parametrize("name", [b"a\tb", b"a\x01b", b"a\x7f", b"caf\xc3\xa9"])
async def test_a_tenant_with_characters_that_no_client_sends(server: ServerProcess, name: bytes) -> None:
    message = pb.GenerateRequest(start=endless(3)).SerializeToString()
    seen = await raw_call(server.address, GENERATE, [(b"x-tenant-id", name)], message)
    # INVALID_ARGUMENT.
    assert b"grpc-status\x013" in seen
    assert b"x-tenant-id: allowed: one value" in seen
    # The same call with a name that is in order.
    assert b"grpc-status\x010" in await raw_call(server.address, GENERATE, [(b"x-tenant-id", b"ab")], message)


async def test_nothing_is_left_behind(stubs: Stubs) -> None:
    """A refusal keeps no place: what was refused above counts for nothing now."""
    status = await at_rest(stubs)
    assert (status.admission.queued_tokens, status.streams.queued) == (0, 0)
    assert sum(status.admission.refused.values()) == status.streams.refused
    assert all(not (one.in_flight or one.queued) for one in status.admission.tenants)
    assert (await refused(stubs.generation, pb.GenerateRequest(start=endless(0)))).reason == "INVALID_REQUEST"
