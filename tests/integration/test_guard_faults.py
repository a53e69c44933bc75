"""Workers that are slow or stuck, under a guard: that one is restarted, and nobody loses a token."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from penstock.v1.status_pb2 import WORKER_STATE_READY, Status
from tests.engine.worker_double import ALL, pace
from tests.integration.admission_calls import fixed_limit
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
from tests.integration.paced_server import paced
from tests.integration.processes import running_server
from tests.service.calls import endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

STEP_S, SLOW_STEP_S = 0.04, 0.16
TOKENS = 40
WORKERS = 2
CALLERS = 6
STUCK_AFTER_S = 1.0
OPTIONS = {
    "ENGINE__WORKERS": str(WORKERS),
    "ENGINE__STUCK_AFTER_MS": str(STUCK_AFTER_S * 1e3),
    "SLO__INTER_TOKEN_P95_MS": "100",
}


@pytest.fixture
def paces(tmp_path: Path) -> Path:
    folder = tmp_path / "paces"
    folder.mkdir()
    pace(folder, ALL, STEP_S)
    return folder


@pytest.fixture
def mode() -> str:
    return "act"


@pytest_asyncio.fixture
async def stubs(tmp_path: Path, paces: Path, mode: str) -> AsyncIterator[Stubs]:
    options = guarded(mode, **fixed_limit(2 * CALLERS), **OPTIONS)
    with running_server(tmp_path / "stderr", options, **paced(paces)) as server:
        async with stubs_of(server.address) as stubs:
            yield stubs


def story() -> pb.Start:
    return endless(TOKENS)


def ready(status: Status) -> bool:
    return [worker.state for worker in status.workers] == [WORKER_STATE_READY] * WORKERS


async def in_good_times(stubs: Stubs, calls: Callers) -> Status:
    """The status after a slow window in which all was well, with streams on both workers."""
    await eventually(stubs.status, ready)
    calls.begin(CALLERS, story)
    status = await later(stubs, 1)
    assert deeds(status) == []
    assert all(worker.streams for worker in status.workers)
    return status


async def only_restarted(stubs: Stubs, calls: Callers, before: Status, index: int) -> None:
    """Nothing else was done, nor is in the time after; and nobody lost a token."""
    whole = await eventually(stubs.status, ready)
    assert whole.workers[index].pid != before.workers[index].pid
    asked = len(calls.answers)
    after = await later(stubs, 2)
    assert [(deed.what, deed.outcome) for deed in deeds(after)] == [
        (f"RESTART_WORKER double/{index}", "TAKEN")
    ]
    assert after.remediation.suspended == ""
    assert [worker.restarts for worker in after.workers] == [int(place == index) for place in range(WORKERS)]
    assert after.failovers >= 1
    assert len(calls.answers) > asked
    assert all(answer.token_ids == list(range(1, TOKENS + 1)) for answer in calls.answers)
    assert not calls.refused


async def test_a_slow_worker_is_restarted(stubs: Stubs, paces: Path) -> None:
    async with callers(stubs) as calls:
        before = await in_good_times(stubs, calls)
        pace(paces, before.workers[1].pid, SLOW_STEP_S)
        watch = Watch(stubs, before.uptime_s)
        deed = await watch.done("RESTART_WORKER double/1", "TAKEN")
        assert 0 <= periods(watch.breached_s, deed) <= WITHIN_PERIODS
        assert "inter_token_p95 burns" in deed.cause
        await only_restarted(stubs, calls, before, 1)


async def test_a_stuck_worker_is_restarted(stubs: Stubs) -> None:
    async with callers(stubs) as calls:
        before = await in_good_times(stubs, calls)
        os.kill(before.workers[0].pid, signal.SIGSTOP)
        silent = await eventually(stubs.status, lambda status: status.workers[0].silent_ms > 10e3 * STEP_S)
        suspect_s = silent.uptime_s - silent.workers[0].silent_ms / 1e3 + STUCK_AFTER_S
        deed = await Watch(stubs, before.uptime_s).done("RESTART_WORKER double/0", "TAKEN")
        assert 0 <= periods(suspect_s, deed) <= WITHIN_PERIODS
        assert "no sign of life" in deed.cause
        await only_restarted(stubs, calls, before, 0)


@pytest.mark.parametrize("mode", ["dry_run"])
async def test_in_a_dry_run_it_is_only_told(stubs: Stubs, paces: Path) -> None:
    async with callers(stubs) as calls:
        before = await in_good_times(stubs, calls)
        pace(paces, before.workers[1].pid, SLOW_STEP_S)
        deed = await Watch(stubs, before.uptime_s).done("RESTART_WORKER double/1", "TAKEN")
        assert deed.dry_run
        after = await later(stubs, 1)
        assert {(told.what, told.outcome, told.dry_run) for told in deeds(after)} == {
            ("RESTART_WORKER double/1", "TAKEN", True)
        }
        assert [worker.pid for worker in after.workers] == [worker.pid for worker in before.workers]
        assert after.failovers == 0
