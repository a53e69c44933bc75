"""What the rules are given: the state of the service at one evaluation."""

from dataclasses import dataclass

from flowcontrol.limits.contract import StrategyName
from flowcontrol.slo import SloSnapshot


@dataclass(frozen=True, slots=True)
class LimitSignal:
    """The limit on streams in flight. swings: changes of its direction in the last minute."""

    strategy: StrategyName
    limit: int
    min_streams: int
    swings: int


@dataclass(frozen=True, slots=True)
class WorkerSignal:
    """One worker process. suspect: it makes no step and gives no sign of life, for silent_s.

    step_ms: mean time of its steps in the last interval; None when it made none. restarts: so far.
    """

    model: str
    index: int
    ready: bool
    suspect: bool
    silent_s: float
    step_ms: float | None
    restarts: int

    @property
    def subject(self) -> str:
        """Its name in actions."""
        return f"{self.model}/{self.index}"


@dataclass(frozen=True, slots=True)
class TenantSignal:
    """share: of the demand of the last interval, 0..1, with what waits and what was refused.

    throttled: whether it is held back more than its configuration says, by whomever.
    """

    name: str
    share: float
    throttled: bool


@dataclass(frozen=True, slots=True)
class FeatureSignal:
    """A feature whose canary arm was found worse than the control arm. worse: in which way."""

    name: str
    worse: str


@dataclass(frozen=True, slots=True)
class Signals:
    """kv_use: share of the memory for KV caches in use, 0..1. kv_refusals, kv_evictions: for want of it,
    since the last evaluation. prefill_share: of the step time, spent on prompts, 0..1; None when unknown.
    """

    slo: SloSnapshot
    limit: LimitSignal
    workers: tuple[WorkerSignal, ...]
    kv_use: float
    kv_refusals: int
    kv_evictions: int
    tenants: tuple[TenantSignal, ...]
    prefill_share: float | None
    features: tuple[FeatureSignal, ...]
