"""What the rules are given: from snapshots, and from what has changed since the last look."""

from dataclasses import replace

import pytest

from engine.contract import NO_COUNTERS, EngineCounters, WorkerSnapshot, WorkerState
from engine.hosted_model import ModelSnapshot
from engine.model_host import ModelHost
from flowcontrol.admission.snapshot import GovernorSnapshot, TenantSnapshot
from flowcontrol.reasons import Reason
from flowcontrol.remediation.signals import FeatureSignal, Signals
from flowcontrol.slo import SloGuard
from service.guard_signals import Requests, SignalReader, kv_use
from tests.service.admission_subjects import a_governor
from tests.service.drivers import START_S, scripted_engine
from tests.service.guards import SLO

GOVERNED = a_governor().snapshot(START_S)
TENANT = TenantSnapshot(
    name="",
    named=False,
    weight=1.0,
    in_flight=0,
    queued=0,
    started=0,
    refused=0,
    tokens=0,
    asked_tokens=0,
    throttle=None,
)


def governed(**refused: int) -> GovernorSnapshot:
    """Refused so far, by the name of the reason."""
    return replace(GOVERNED, refused={Reason[name]: number for name, number in refused.items()})


def with_tenants(given: GovernorSnapshot = GOVERNED, **asked: int) -> GovernorSnapshot:
    tenants = tuple(replace(TENANT, name=name, asked_tokens=tokens) for name, tokens in asked.items())
    return replace(given, tenants=tenants)


def moved(raised: int, lowered: int) -> GovernorSnapshot:
    return replace(GOVERNED, limit=replace(GOVERNED.limit, raised=raised, lowered=lowered))


def worker(
    index: int, *, pid: int = 100, state: WorkerState = WorkerState.READY, **counts: float
) -> WorkerSnapshot:
    counters: EngineCounters = replace(NO_COUNTERS, **counts)  # type: ignore[arg-type]
    return WorkerSnapshot(index, state, pid, restarts=0, streams=0, counters=counters, silent_s=1.5)


def models(*workers: WorkerSnapshot) -> tuple[ModelSnapshot, ...]:
    """One model with these workers."""
    [model] = ModelHost.of(scripted_engine()).models()
    engine = replace(scripted_engine().snapshot(), workers=workers)
    return (replace(model, name="m", engine=engine),)


class Reader:
    """A SignalReader with a clock, and what does not matter filled in."""

    def __init__(self) -> None:
        self.reader = SignalReader()
        self.now_s = START_S
        self.slo = SloGuard(SLO, START_S).snapshot()

    def read(
        self,
        given: GovernorSnapshot = GOVERNED,
        seen: tuple[ModelSnapshot, ...] = (),
        *,
        worse: tuple[FeatureSignal, ...] = (),
        after_s: float = 10.0,
    ) -> Signals:
        self.now_s += after_s
        return self.reader.read(self.slo, given, seen, kv_use=0.5, worse=worse, now_s=self.now_s)


def test_requests_leave_out_what_is_the_callers_own_doing() -> None:
    reader = SignalReader()
    assert reader.requests(replace(governed(QUEUE_FULL=2), admitted=10)) == Requests(asked=12, refused=2)
    later = replace(governed(QUEUE_FULL=2, WOULD_MISS_DEADLINE=3, TENANT_LIMIT=50), admitted=14)
    assert reader.requests(later) == Requests(asked=7, refused=3)


def test_workers_are_told_by_their_last_interval() -> None:
    reader = Reader()
    early = worker(0, decode_steps=10, step_s=1.0, prefill_s=0.5)
    reader.read(seen=models(early))
    late = worker(0, decode_steps=30, step_s=3.0, prefill_s=1.5)
    stuck = worker(1, pid=101, state=WorkerState.SUSPECT)
    signals = reader.read(seen=models(late, stuck))
    first, second = signals.workers
    assert (first.subject, first.ready) == ("m/0", True)
    assert first.step_ms == pytest.approx(50.0)
    assert (second.suspect, second.ready, second.step_ms, second.silent_s) == (True, False, None, 1.5)
    assert signals.prefill_share == pytest.approx(0.5)


def test_a_restarted_worker_counts_anew() -> None:
    reader = Reader()
    reader.read(seen=models(worker(0, decode_steps=1000, step_s=10.0, evictions=7)))
    signals = reader.read(seen=models(worker(0, pid=200, decode_steps=2000, step_s=40.0, evictions=2)))
    assert signals.workers[0].step_ms == pytest.approx(20.0)
    assert signals.kv_evictions == 2


def test_nothing_is_known_of_steps_that_were_not_made() -> None:
    signals = Reader().read(seen=models(worker(0)))
    assert (signals.prefill_share, signals.workers[0].step_ms) == (None, None)


def test_refusals_for_memory_are_those_since_the_last_look() -> None:
    reader = Reader()
    assert reader.read(governed(KV_EXHAUSTED=3)).kv_refusals == 3
    assert reader.read(governed(KV_EXHAUSTED=3)).kv_refusals == 0


def test_shares_of_tenants_are_of_the_last_interval() -> None:
    reader = Reader()
    reader.read(with_tenants(a=900, b=100))
    signals = reader.read(with_tenants(a=910, b=130))
    assert {each.name: each.share for each in signals.tenants} == {"a": 0.25, "b": 0.75}
    assert [each.share for each in reader.read(with_tenants(a=910, b=130)).tenants] == [0.0, 0.0]


def test_a_limit_swings_when_it_went_up_and_down_within_a_minute() -> None:
    reader = Reader()
    assert reader.read(moved(5, 5)).limit.swings == 0
    assert reader.read(moved(9, 5)).limit.swings == 0
    assert reader.read(moved(9, 7)).limit.swings == 4
    assert reader.read(moved(9, 7), after_s=61.0).limit.swings == 0


def test_the_rest_is_passed_on() -> None:
    worse = (FeatureSignal("pooling", "worse"),)
    signals = Reader().read(worse=worse)
    assert (signals.features, signals.kv_use) == (worse, 0.5)
    assert (signals.limit.limit, signals.limit.min_streams) == (4, 2)


@pytest.mark.parametrize(
    ("bound", "available", "expected"),
    [(0, None, 0.0), (0, 3000, 0.25), (800, None, 0.75), (800, 3000, 0.75), (400, None, 1.0), (0, 0, 1.0)],
)
def test_memory_in_use_is_of_the_bound_or_of_the_machine(
    bound: int, available: int | None, expected: float
) -> None:
    """600 bytes of rows, and 400 of prefixes, which give way before the bound."""
    estimates = replace(GOVERNED.estimates, max_kv_bytes=bound)
    seen = models(worker(0, kv_bytes=600, prefix_cache_bytes=400))
    assert kv_use(seen, replace(GOVERNED, estimates=estimates), available) == pytest.approx(expected)


def test_without_a_model_no_memory_is_in_use() -> None:
    assert kv_use((), GOVERNED, 0) == 0.0
