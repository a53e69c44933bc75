"""How much of the memory for KV caches is in use, as remediation sees it."""

from dataclasses import replace

import pytest

from engine.contract import NO_COUNTERS, EngineSnapshot, EngineState, WorkerSnapshot, WorkerState
from engine.hosted_model import ModelSnapshot, failed
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.snapshot import GovernorSnapshot
from service.guard_signals import kv_use
from tests.flowcontrol.admission.governors import governor_options


def governed(max_kv_bytes: int) -> GovernorSnapshot:
    options = governor_options(gate={"max_kv_bytes": max_kv_bytes})
    return Governor(options, now_s=0.0, chance=lambda: 0.5).snapshot(0.0)


def holding(kv_bytes: int, prefix_cache_bytes: int) -> ModelSnapshot:
    """A model whose rows and whose prefix cache keep so much; the worker counts them apart."""
    counters = replace(NO_COUNTERS, kv_bytes=kv_bytes, prefix_cache_bytes=prefix_cache_bytes)
    worker = WorkerSnapshot(0, WorkerState.READY, 1, 0, 0, counters)
    engine = EngineSnapshot(
        state=EngineState.READY,
        model=None,
        counters=counters,
        workers=(worker,),
        waiting=0,
        failovers=0,
        cpu_blas="",
        full_batch_step_s=0.0,
    )
    return replace(failed("m", "m", (), ""), engine=engine)


@pytest.mark.parametrize(
    ("rows", "prefixes", "bound", "available", "expected"),
    [
        pytest.param(600, 0, 1000, 10**6, 0.6, id="of the bound"),
        pytest.param(600, 900, 1000, 10**9, 0.6, id="prefixes give way by themselves before the bound"),
        pytest.param(1200, 0, 1000, 10**6, 1.0, id="at most all of it"),
        pytest.param(100, 200, 0, 700, 0.3, id="of the machine's memory, prefixes too"),
        pytest.param(100, 800, 1000, 100, 0.9, id="whichever is shorter"),
        pytest.param(100, 200, 0, None, 0.0, id="nothing is known"),
        pytest.param(0, 0, 0, 0, 0.0, id="nothing is held"),
    ],
)
def test_kv_use(rows: int, prefixes: int, bound: int, available: int | None, expected: float) -> None:
    used = kv_use((holding(rows, prefixes),), governed(bound), available)
    assert used == pytest.approx(expected, abs=1e-3)
