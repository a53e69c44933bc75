"""A small service in virtual time, with faults that actions cure, under the guard and the policy."""

from dataclasses import dataclass, replace

from flowcontrol.limits.contract import StrategyName
from flowcontrol.remediation.actions import Action, Step, StepKind
from flowcontrol.remediation.policy import Policy
from flowcontrol.remediation.signals import (
    FeatureSignal,
    LimitSignal,
    Signals,
    TenantSignal,
    WorkerSignal,
)
from flowcontrol.slo import SloGuard, SloSnapshot
from tests.flowcontrol.remediation.situations import OPTIONS
from tests.flowcontrol.slo_options import SLO

REQUESTS_PER_S = 4
STUCK_AFTER_S, RESTART_S = 10, 5


@dataclass
class Plant:
    """Healthy: two workers, two tenants, a canary. Told of each second; subclasses are its faults.

    began_s, ended_s: of the fault.
    """

    began_s: int
    ended_s: int
    now_s: int = 0

    def __post_init__(self) -> None:
        self.in_force: set[Action] = set()
        self.restarted_s: float | None = None

    @property
    def fault(self) -> bool:
        return self.began_s <= self.now_s < self.ended_s

    def execute(self, step: Step) -> str | None:
        if step.kind is StepKind.UNDO:
            self.in_force.remove(step.action)
        else:
            self.in_force.add(step.action)
        return None

    def second(self, guard: SloGuard) -> None:
        """What happens in it; healthy here."""
        self.happen(guard)

    def happen(
        self, guard: SloGuard, *, ttft_s: float = 0.4, bad_gaps: int = 0, gaps: int = 20, refused: int = 0
    ) -> None:
        for _ in range(REQUESTS_PER_S - refused):
            guard.first_token(ttft_s)
            guard.ended(False)
        guard.gaps([0.5] * bad_gaps + [0.03] * (gaps - bad_gaps))
        guard.requests(REQUESTS_PER_S, refused)

    def signals(self, slo: SloSnapshot) -> Signals:
        return Signals(
            slo=slo,
            limit=LimitSignal(StrategyName.PID, 20, 1, 0),
            workers=(self.worker(0), self.worker(1)),
            kv_use=0.6,
            kv_refusals=0,
            kv_evictions=0,
            tenants=(TenantSignal("flood", 0.4, False), TenantSignal("other", 0.6, False)),
            prefill_share=0.1,
            features=(),
        )

    def worker(self, index: int) -> WorkerSignal:
        return WorkerSignal("m", index, True, False, 0.1, 20.0 + index, 0)


class WorkerFault(Plant):
    """Lasts until worker 1 is restarted."""

    def execute(self, step: Step) -> str | None:
        assert (step.action, step.subject) == (Action.RESTART_WORKER, "m/1")
        self.ended_s = self.now_s
        self.restarted_s = self.now_s
        return None

    def worker(self, index: int) -> WorkerSignal:
        usual = super().worker(index)
        away = self.restarted_s is not None and self.now_s - self.restarted_s < RESTART_S
        if index == 0 or not (self.fault or away):
            return usual
        if away:
            return replace(usual, ready=False, step_ms=None)
        return self.sick(usual)

    def sick(self, worker: WorkerSignal) -> WorkerSignal:
        raise NotImplementedError


class SlowWorker(WorkerFault):
    def second(self, guard: SloGuard) -> None:
        self.happen(guard, bad_gaps=5 if self.fault else 0)

    def sick(self, worker: WorkerSignal) -> WorkerSignal:
        return replace(worker, step_ms=500.0)


class OnlySlowWorker(SlowWorker):
    """Without a sibling to compare it with."""

    def signals(self, slo: SloSnapshot) -> Signals:
        return replace(super().signals(slo), workers=(self.worker(1),))


class StuckWorker(WorkerFault):
    """Its streams get no tokens, and say nothing."""

    def second(self, guard: SloGuard) -> None:
        self.happen(guard, gaps=10 if self.fault else 20)

    def sick(self, worker: WorkerSignal) -> WorkerSignal:
        silent_s = self.now_s - self.began_s
        return replace(worker, suspect=silent_s >= STUCK_AFTER_S, silent_s=silent_s, step_ms=None)


class KvShortage(Plant):
    """Rows take more than caches leave. What is given back to caches, they fill."""

    @property
    def wanted(self) -> float:
        return (0.85 if self.fault else 0.3) + (0.0 if Action.EVICT_CACHES in self.in_force else 0.3)

    def second(self, guard: SloGuard) -> None:
        self.happen(guard, refused=1 if self.wanted > 1 else 0)

    def signals(self, slo: SloSnapshot) -> Signals:
        refusals = 10 if self.wanted > 1 else 0
        return replace(super().signals(slo), kv_use=min(1.0, self.wanted), kv_refusals=refusals)


class TenantFlood(Plant):
    """A tenant asks for ten times what it did; its demand does not fall for being throttled."""

    @property
    def throttled(self) -> bool:
        return Action.THROTTLE_TENANT in self.in_force

    def second(self, guard: SloGuard) -> None:
        self.happen(guard, ttft_s=12.0 if self.fault and not self.throttled else 0.4)

    def signals(self, slo: SloSnapshot) -> Signals:
        share = 0.87 if self.fault else 0.4
        tenants = (TenantSignal("flood", share, self.throttled), TenantSignal("other", 1 - share, False))
        return replace(super().signals(slo), tenants=tenants, kv_use=0.9 if self.fault else 0.6)


class BadCanary(Plant):
    """One stream in four is of the canary arm; another part compares the arms, and is sure after 15 s."""

    @property
    def bad(self) -> bool:
        return self.fault and Action.ROLL_BACK_FEATURE not in self.in_force

    def second(self, guard: SloGuard) -> None:
        self.happen(guard, ttft_s=0.7 if self.bad and self.now_s % 4 == 0 else 0.4)

    def signals(self, slo: SloSnapshot) -> Signals:
        found = self.bad and self.now_s - self.began_s >= 15
        features = (FeatureSignal("speculation", "TTFT 300 ms longer"),) if found else ()
        return replace(super().signals(slo), features=features)


class Incurable(Plant):
    """The time to first token is bad, whatever is done."""

    def second(self, guard: SloGuard) -> None:
        self.happen(guard, ttft_s=12.0 if self.fault else 0.4)


@dataclass(frozen=True)
class Run:
    """steps: with the second of each. suspended: what the policy told at the end of the fault."""

    steps: list[tuple[int, str]]
    suspended: str
    policy: Policy


def run(plant: Plant, seconds: int) -> Run:
    guard, policy = SloGuard(SLO, 0.0), Policy(OPTIONS)
    steps: list[tuple[int, str]] = []
    suspended = ""
    for now_s in range(seconds):
        plant.now_s = now_s
        if now_s >= guard.next_deadline():
            for step in policy.decide(plant.signals(guard.evaluate(now_s)), now_s):
                steps.append((now_s, f"{step.kind} {step.action} {step.subject}".strip()))
                policy.report(step, plant.execute(step), now_s)
        plant.second(guard)
        if plant.fault:
            suspended = policy.snapshot(now_s).suspended
    return Run(steps, suspended, policy)
