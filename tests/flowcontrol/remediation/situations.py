"""Signals for the tests of this folder, and an owner that reports what it is given to do."""

from dataclasses import replace

from flowcontrol.limits.contract import StrategyName
from flowcontrol.remediation.actions import Action, Event, Outcome, Step, StepKind
from flowcontrol.remediation.contract import RemediationOptions
from flowcontrol.remediation.policy import Policy
from flowcontrol.remediation.signals import (
    FeatureSignal,
    LimitSignal,
    Signals,
    TenantSignal,
    WorkerSignal,
)
from flowcontrol.slo import SloSnapshot
from flowcontrol.slo_verdict import Objective, ObjectiveSnapshot, Verdict

INTERVAL_S = 10.0
OPTIONS = RemediationOptions(
    act=True, cool_down_s=30.0, max_actions_per_hour=30, max_swings=3, max_failures=5
)
HEALTHY = Signals(
    slo=SloSnapshot(0.0, INTERVAL_S, 30.0, 300.0, ()),
    limit=LimitSignal(StrategyName.PID, 20, 1, 0),
    workers=(),
    kv_use=0.3,
    kv_refusals=0,
    kv_evictions=0,
    tenants=(),
    prefill_share=None,
    features=(),
)


def slo(**burns: float | None) -> SloSnapshot:
    """Fast burn rates by the name of the objective: above 1 breached, None unknown; the others are met."""
    objectives = tuple(_objective(name, burns.get(name, 0.1)) for name in Objective)
    return replace(HEALTHY.slo, objectives=objectives)


def _objective(name: Objective, burn: float | None, since_s: float | None = None) -> ObjectiveSnapshot:
    known = burn is not None
    bad = burn is not None and burn > 1
    verdict = (Verdict.BREACHED if bad else Verdict.MET) if known else Verdict.UNKNOWN
    return ObjectiveSnapshot(name, 1.0, verdict, 1.0, 1.0, burn, burn, 100, 0.0 if bad else since_s)


def unknown_since(name: Objective) -> SloSnapshot:
    """It was breached, and has too few samples now."""
    return replace(HEALTHY.slo, objectives=(_objective(name, None, since_s=0.0),))


HEALTHY = replace(HEALTHY, slo=slo())
TTFT_BREACHED = replace(HEALTHY, slo=slo(ttft_p95=4.0))
GAPS_BREACHED = replace(HEALTHY, slo=slo(inter_token_p95=4.0))
REFUSALS_BREACHED = replace(HEALTHY, slo=slo(refusal_rate=4.0))
FLOOD = (TenantSignal("flood", 0.8, False), TenantSignal("other", 0.2, False))


def worker(index: int = 0, *, step_ms: float | None = 20.0, suspect: bool = False) -> WorkerSignal:
    silent_s = 12.0 if suspect else 0.1
    return WorkerSignal("m", index, True, suspect, silent_s, step_ms, 0)


def canary(name: str = "speculation") -> tuple[FeatureSignal, ...]:
    return (FeatureSignal(name, "TTFT 300 ms longer"),)


class Owner:
    """Calls a policy every interval and does what it says; `failing` are the actions that it cannot do."""

    def __init__(self, options: RemediationOptions = OPTIONS) -> None:
        self.policy = Policy(options)
        self.now_s = 1000.0
        self.failing: set[tuple[StepKind, Action]] = set()

    def look(self, signals: Signals, times: int = 1) -> list[Step]:
        """The steps of so many evaluations of the same."""
        steps: list[Step] = []
        for _ in range(times):
            self.now_s += INTERVAL_S
            given = self.policy.decide(signals, self.now_s)
            for step in given:
                error = "cannot" if (step.kind, step.action) in self.failing else None
                self.policy.report(step, error, self.now_s)
            steps += given
        return steps

    def names(self, signals: Signals, times: int = 1) -> list[str]:
        """The steps as "TAKE LOWER_LIMIT"."""
        return [f"{step.kind} {step.action} {step.subject}".strip() for step in self.look(signals, times)]

    def events(self) -> list[Event]:
        """The latest, oldest first."""
        return list(reversed(self.policy.snapshot(self.now_s).events))

    def outcomes(self) -> list[Outcome]:
        return [event.outcome for event in self.events()]

    def active(self) -> list[Action]:
        return [event.action for event in self.policy.snapshot(self.now_s).active]
