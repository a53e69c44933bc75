"""What the rules of remediation are given: from snapshots, and from what has changed since the last look."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.contract import WorkerSnapshot, WorkerState
from engine.hosted_model import ModelSnapshot
from flowcontrol.admission.snapshot import GovernorSnapshot, LimitSnapshot, TenantSnapshot
from flowcontrol.reasons import Reason
from flowcontrol.remediation.signals import FeatureSignal, LimitSignal, Signals, TenantSignal, WorkerSignal
from flowcontrol.slo import SloSnapshot
from service.growth import Growth

# Refusals that are the caller's own doing, or meant: they say nothing of how the server does.
_NOT_OURS = frozenset({Reason.TENANT_LIMIT, Reason.DRAINING, Reason.INVALID_REQUEST})
_SWINGS_OVER_S = 60.0

Counter = tuple[str, int, int, str]
"""A model, one of its workers, its process, and what is counted: a new process counts anew."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Since the last look: those that were admitted, or refused for want of room; of those the refused."""

    asked: int
    refused: int


def kv_use(models: Sequence[ModelSnapshot], governed: GovernorSnapshot, available: int | None) -> float:
    """Share of the memory for KV caches in use, 0..1: of the configured bound, or of what the machine has.

    Prefix caches count against the machine only: before the bound they give way by themselves. available:
    bytes that processes may still take; None when it is not known.
    """
    counters = [worker.counters for model in models for worker in model.workers]
    rows = sum(each.kv_bytes for each in counters)
    held = rows + sum(each.prefix_cache_bytes for each in counters)
    bound = governed.estimates.max_kv_bytes
    of_bound = min(1.0, rows / bound) if bound else 0.0
    of_machine = held / (held + available) if held and available is not None else 0.0
    return max(of_bound, of_machine)


class SignalReader:
    """Keeps what is needed to see changes. To be asked once for each evaluation."""

    def __init__(self) -> None:
        self._admission: Growth[str] = Growth()
        self._tenants: Growth[str] = Growth()
        self._workers: Growth[Counter] = Growth()
        # The limit's counts of moves up and down, over the last minute.
        self._moves: deque[tuple[float, int, int]] = deque()
        self._requests_seen: Growth[str] = Growth()

    def requests(self, governed: GovernorSnapshot) -> Requests:
        """How many requests came, and how many of them were refused by the server."""
        refused = sum(number for reason, number in governed.refused.items() if reason not in _NOT_OURS)
        grown = self._requests_seen.take({"admitted": governed.admitted, "refused": refused})
        return Requests(asked=round(grown["admitted"] + grown["refused"]), refused=round(grown["refused"]))

    def read(
        self,
        slo: SloSnapshot,
        governed: GovernorSnapshot,
        models: tuple[ModelSnapshot, ...],
        *,
        kv_use: float,
        worse: tuple[FeatureSignal, ...],
        now_s: float,
    ) -> Signals:
        """kv_use: share of the memory for KV caches in use. worse: features whose canary does worse."""
        refusals = governed.refused.get(Reason.KV_EXHAUSTED, 0)
        grown = self._admission.take({"kv refusals": refusals})
        workers, evictions, prefill_share = self._read_workers(models)
        return Signals(
            slo=slo,
            limit=self._limit(governed.limit, now_s),
            workers=workers,
            kv_use=kv_use,
            kv_refusals=round(grown["kv refusals"]),
            kv_evictions=evictions,
            tenants=self._read_tenants(governed.tenants),
            prefill_share=prefill_share,
            features=worse,
        )

    def _limit(self, limit: LimitSnapshot, now_s: float) -> LimitSignal:
        self._moves.append((now_s, limit.raised, limit.lowered))
        while now_s - self._moves[0][0] > _SWINGS_OVER_S:
            self._moves.popleft()
        _, raised, lowered = self._moves[0]
        return LimitSignal(
            strategy=limit.strategy,
            limit=limit.limit,
            min_streams=limit.min_streams,
            # So often it has gone back and forth, at most.
            swings=2 * min(limit.raised - raised, limit.lowered - lowered),
        )

    def _read_workers(
        self, models: tuple[ModelSnapshot, ...]
    ) -> tuple[tuple[WorkerSignal, ...], int, float | None]:
        """The workers, parked caches that were evicted, and the share of the step time spent on prompts."""
        there = [(model.name, worker) for model in models for worker in model.workers]
        values: dict[Counter, float] = {}
        for name, worker in there:
            counters = worker.counters
            for what, value in (
                ("steps", counters.decode_steps),
                ("step_s", counters.step_s),
                ("prefill_s", counters.prefill_s),
                ("evictions", counters.evictions),
            ):
                values[name, worker.index, worker.pid, what] = value
        grown = self._workers.take(values)
        sums: dict[str, float] = {"step_s": 0.0, "prefill_s": 0.0, "evictions": 0.0, "steps": 0.0}
        for (_, _, _, what), value in grown.items():
            sums[what] += value
        signals = tuple(_worker(name, worker, grown) for name, worker in there)
        share = sums["prefill_s"] / sums["step_s"] if sums["step_s"] else None
        return signals, round(sums["evictions"]), share

    def _read_tenants(self, tenants: tuple[TenantSnapshot, ...]) -> tuple[TenantSignal, ...]:
        grown = self._tenants.take({tenant.name: tenant.asked_tokens for tenant in tenants})
        demand = sum(grown.values())
        return tuple(
            TenantSignal(
                name=tenant.name,
                share=grown[tenant.name] / demand if demand else 0.0,
                throttled=tenant.throttle is not None,
            )
            for tenant in tenants
        )


def _worker(name: str, worker: WorkerSnapshot, grown: Mapping[Counter, float]) -> WorkerSignal:
    key = name, worker.index, worker.pid
    steps = grown[*key, "steps"]
    spent_s = grown[*key, "step_s"] - grown[*key, "prefill_s"]
    return WorkerSignal(
        model=name,
        index=worker.index,
        ready=worker.state is WorkerState.READY,
        suspect=worker.state is WorkerState.SUSPECT,
        silent_s=worker.silent_s,
        step_ms=spent_s / steps * 1e3 if steps else None,
        restarts=worker.restarts,
    )
