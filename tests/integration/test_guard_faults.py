"""Workers that are slow or stuck, under a guard: that one is restarted, and nobody loses a token."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

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

STEP_S, SLOW_STEP_S = 0.1, 0.4
"""Long, so that what a busy machine adds is little beside it."""
TOKENS = 20
WORKERS = 2
CALLERS = 6
STUCK_AFTER_S = 3.0
SLOW = {"SLO__INTER_TOKEN_P95_MS": "250"}
STUCK = {"ENGINE__STUCK_AFTER_MS": str(STUCK_AFTER_S * 1e3)}


@pytest.fixture
def paces(tmp_path: Path) -> Path:
    folder = tmp_path / "paces"
    folder.mkdir()
    pace(folder, ALL, STEP_S)
    return folder


@asynccontextmanager
async def serving(folder: Path, paces: Path, mode: str, fault: dict[str, str]) -> AsyncIterator[Stubs]:
    options = guarded(mode, **fixed_limit(2 * CALLERS), **{"ENGINE__WORKERS": str(WORKERS), **fault})
    with running_server(folder / "stderr", options, **paced(paces)) as server:
        async with stubs_of(server.address) as stubs:
            yield stubs


def story() -> pb.Start:
    return endless(TOKENS)


def ready(status: Status) -> bool:
    return [worker.state for worker in status.workers] == [WORKER_STATE_READY] * WORKERS


def busy(status: Status) -> bool:
    return ready(status) and all(worker.streams for worker in status.workers)


async def in_good_times(stubs: Stubs, calls: Callers, windows: int) -> Status:
    """The status with streams on both workers, after so many slow windows in which all was well."""
    await eventually(stubs.status, ready)
    calls.begin(CALLERS, story)
    await later(stubs, windows)
    status = await eventually(stubs.status, busy)
    assert deeds(status) == []
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


async def test_a_slow_worker_is_restarted(tmp_path: Path, paces: Path) -> None:
    async with serving(tmp_path, paces, "act", SLOW) as stubs, callers(stubs) as calls:
        before = await in_good_times(stubs, calls, 1)
        pace(paces, before.workers[1].pid, SLOW_STEP_S)
        watch = Watch(stubs, before.uptime_s)
        deed = await watch.done("RESTART_WORKER double/1", "TAKEN")
        assert 0 <= periods(watch.breached_s, deed) <= WITHIN_PERIODS
        assert "inter_token_p95 burns" in deed.cause
        await only_restarted(stubs, calls, before, 1)


async def test_a_stuck_worker_is_restarted(tmp_path: Path, paces: Path) -> None:
    async with serving(tmp_path, paces, "act", STUCK) as stubs, callers(stubs) as calls:
        before = await in_good_times(stubs, calls, 0)
        os.kill(before.workers[0].pid, signal.SIGSTOP)
        silent = await eventually(stubs.status, lambda status: status.workers[0].silent_ms > 5e3 * STEP_S)
        suspect_s = silent.uptime_s - silent.workers[0].silent_ms / 1e3 + STUCK_AFTER_S
        deed = await Watch(stubs, before.uptime_s).done("RESTART_WORKER double/0", "TAKEN")
        assert 0 <= periods(suspect_s, deed) <= WITHIN_PERIODS
        assert "no sign of life" in deed.cause
        await only_restarted(stubs, calls, before, 0)


async def test_in_a_dry_run_it_is_only_told(tmp_path: Path, paces: Path) -> None:
    async with serving(tmp_path, paces, "dry_run", SLOW) as stubs, callers(stubs) as calls:
        before = await in_good_times(stubs, calls, 1)
        pace(paces, before.workers[1].pid, SLOW_STEP_S)
        deed = await Watch(stubs, before.uptime_s).done("RESTART_WORKER double/1", "TAKEN")
        assert deed.dry_run
        after = await later(stubs, 1)
        assert {(told.outcome, told.dry_run) for told in deeds(after)} == {("TAKEN", True)}
        assert [worker.pid for worker in after.workers] == [worker.pid for worker in before.workers]
        assert after.failovers == 0
