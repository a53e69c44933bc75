"""Callers who are refused and come again when they are told to: all are answered, and the burst dies away."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.integration.admission_calls import (
    Declined,
    TenantCall,
    at_rest,
    fixed_limit,
    outcome_of,
    scripted,
)
from tests.integration.processes import ServerProcess
from tests.service.calls import Answer, endless
from tests.service.servers import Stubs, stubs_of

LIMIT = 4
MAX_QUEUED = 4
CALLERS = 10 * (LIMIT + MAX_QUEUED)
TOKENS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = fixed_limit(LIMIT, ADMISSION__QUEUE__MAX_REQUESTS=str(MAX_QUEUED))
    with scripted(tmp_path_factory.mktemp("retries"), options) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await at_rest(stubs)
        yield stubs


async def test_a_burst_of_ten_times_the_capacity_drains(stubs: Stubs) -> None:
    refused_s: list[float] = []
    began_s = time.monotonic()

    async def persist(tenant: str) -> Answer:
        """Ask until there is an answer, each time after the delay that the server named."""
        while True:
            async with TenantCall(stubs.generation, tenant) as call:
                await call.send(start=endless(TOKENS))
                await call.half_close()
                outcome = await outcome_of(call)
            if isinstance(outcome, Answer):
                return outcome
            assert isinstance(outcome, Declined)
            assert outcome.reason == "QUEUE_FULL"
            assert outcome.retry_after_s
            refused_s.append(time.monotonic() - began_s)
            await asyncio.sleep(outcome.retry_after_s)

    answers = await asyncio.gather(*(persist(f"tenant-{number % 24}") for number in range(CALLERS)))
    assert all(answer.token_ids == list(range(1, TOKENS + 1)) for answer in answers)
    status = await at_rest(stubs)
    assert status.admission.admitted == CALLERS
    assert status.admission.refused == {"QUEUE_FULL": len(refused_s)}
    per_second = Counter(int(at_s) for at_s in refused_s)
    assert per_second[0] >= CALLERS - LIMIT - MAX_QUEUED
    assert all(number < per_second[0] for second, number in per_second.items() if second), per_second
