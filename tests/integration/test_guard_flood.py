"""A tenant that floods the server, under a guard: it is held back as long, and the others are served."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import Status
from tests.integration.admission_calls import fixed_limit, scripted
from tests.integration.guarded import (
    WITHIN_PERIODS,
    Callers,
    Watch,
    callers,
    deeds,
    guarded,
    later,
    periods,
)
from tests.service.calls import endless
from tests.service.servers import Stubs, stubs_of

LIMIT = 8
OTHERS, FLOOD = 4, 20
OPTIONS = {"ADMISSION__QUEUE__MAX_REQUESTS": "4", "SLO__MAX_REFUSAL_RATE": "0.05"}


@pytest.fixture
def mode() -> str:
    return "act"


@pytest_asyncio.fixture
async def stubs(tmp_path: Path, mode: str) -> AsyncIterator[Stubs]:
    with scripted(tmp_path, guarded(mode, **fixed_limit(LIMIT), **OPTIONS)) as server:
        async with stubs_of(server.address) as stubs:
            yield stubs


def short() -> pb.Start:
    return endless(10)


def throttles(status: Status) -> dict[str, float]:
    return {one.name: one.throttle for one in status.admission.tenants if one.HasField("throttle")}


async def flooded(stubs: Stubs, calls: Callers) -> Status:
    """The status just before a flood that follows upon a slow window in which all was well."""
    calls.begin(OTHERS, short, "steady")
    calls.begin(1, short, "flood")
    before = await later(stubs, 1)
    assert deeds(before) == []
    assert not calls.refused
    calls.begin(FLOOD, short, "flood")
    return before


async def test_it_is_throttled_as_long_as_it_floods(stubs: Stubs) -> None:
    async with callers(stubs) as calls:
        before = await flooded(stubs, calls)
        watch = Watch(stubs, before.uptime_s)
        deed = await watch.done("THROTTLE_TENANT flood", "TAKEN")
        assert 0 <= periods(watch.breached_s, deed) <= WITHIN_PERIODS
        assert "refusal_rate burns" in deed.cause
        # It goes on asking; the others are served as before, and it gets its share.
        served, refused = calls.finished.copy(), calls.refused.copy()
        during = await later(stubs, 1)
        assert throttles(during) == {"flood": 0.25}
        assert calls.finished["steady"] > served["steady"]
        assert calls.finished["flood"] > served["flood"]
        assert calls.refused["flood"] > refused["flood"]
        assert [one.what for one in deeds(during)] == [deed.what]
        await calls.end("flood")
        undone = await watch.done("THROTTLE_TENANT flood", "UNDONE")
        assert undone.at_s > during.uptime_s
        after = await later(stubs, 2)
        assert throttles(after) == {}
        assert [one.outcome for one in deeds(after)] == ["TAKEN", "UNDONE"]
        assert {one.what for one in deeds(after)} == {"THROTTLE_TENANT flood"}
        assert list(after.remediation.active) == []


@pytest.mark.parametrize("mode", ["dry_run"])
async def test_in_a_dry_run_it_is_only_told(stubs: Stubs) -> None:
    async with callers(stubs) as calls:
        before = await flooded(stubs, calls)
        deed = await Watch(stubs, before.uptime_s).done("THROTTLE_TENANT flood", "TAKEN")
        assert deed.dry_run
        after = await later(stubs, 1)
        assert throttles(after) == {}
        assert (after.admission.limits.limit, after.admission.limits.cap) == (LIMIT, 0)
        assert [one.what for one in deeds(after)] == [deed.what]
