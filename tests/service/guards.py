"""A guard for tests, with everything that it watches and acts on; the test moves its clock."""

from dataclasses import replace
from typing import Any

from engine.model_host import ModelHost
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.remediation.contract import RemediationOptions
from flowcontrol.remediation.policy import Policy
from flowcontrol.slo import SloGuard, SloOptions
from flowcontrol.sustained import SustainedBreaches
from service.alert import Alert
from service.guard import Guard
from service.guard_actions import Actions
from service.guard_news import Newsroom
from service.observation import Cause, StreamLabels, StreamOutcome
from service.options import GuardOptions, RolloutOptions
from service.rollout import Rollout
from tests.flowcontrol import slo_options
from tests.service.admission_subjects import a_governor
from tests.service.drivers import Clock, scripted_engine
from tests.service.feature_subjects import ROLLOUT
from tests.service.servers import UNGUARDED

SLO = replace(slo_options.SLO, min_samples=5, ttft_p95_s=2.0)
REMEDIATION = RemediationOptions(
    act=True, cool_down_s=30.0, max_actions_per_hour=30, max_swings=3, max_failures=5
)
WATCHED: GuardOptions = replace(UNGUARDED, slo=SLO, remediation=REMEDIATION)
LABELS = StreamLabels("scripted", ServiceClass.DEFAULT, "control")
SLICE_TOKENS = 512


def outcome(cause: Cause | None = None, **changes: Any) -> StreamOutcome:
    """A stream of ten tokens that took a second."""
    ended = StreamOutcome(
        labels=LABELS,
        tenant="",
        request_id="r",
        cause=cause,
        reason="length",
        queue_s=0.0,
        ttft_s=0.1,
        duration_s=1.0,
        stalled_s=0.0,
        stalls=0,
        decode_s=0.9,
        prompt_tokens=5,
        cached_tokens=0,
        completion_tokens=10,
        stages_s={},
    )
    return replace(ended, **changes)


class GuardDriver:
    """A guard over a governor (limit 4 of 2 to 8) and a scripted engine. told: alerts; noted: for traces."""

    def __init__(
        self,
        *,
        slo: SloOptions | None = SLO,
        remediation: RemediationOptions | None = REMEDIATION,
        rollout: RolloutOptions = ROLLOUT,
        sustained_s: float = 0.0,
        governor: Governor | None = None,
        rollouts: type[Rollout] = Rollout,
    ) -> None:
        self.clock = Clock()
        self.governor: Governor = governor or a_governor()
        self.engine = scripted_engine()
        self.models = ModelHost.of(self.engine)
        self.decided = 0
        self.rollout = rollouts(rollout, self.governor, self.decide, self.clock)
        self.told: list[Alert] = []
        self.noted: list[tuple[str, str]] = []
        self.kv_use = 0.0
        self.actions = Actions(
            self.governor,
            self.models,
            self.rollout,
            decide=self.decide,
            prefill_step_tokens=SLICE_TOKENS,
            clock=self.clock,
        )
        news = Newsroom(self.told.append)
        news.note = lambda action, cause: self.noted.append((action, cause))
        self.guard = Guard(
            SloGuard(slo, self.clock()) if slo is not None else None,
            Policy(remediation) if remediation is not None else None,
            governor=self.governor,
            models=self.models,
            rollout=self.rollout,
            actions=self.actions,
            news=news,
            sustained=SustainedBreaches(sustained_s),
            kv_use=lambda governed: self.kv_use,
            clock=self.clock,
        )

    def decide(self) -> None:
        self.decided += 1

    def interval(self, ttft_s: float | None, *, streams: int = 20) -> None:
        """An interval in which so many streams got their first token after that time; then a look."""
        for _ in range(streams if ttft_s is not None else 0):
            self.guard.first_token(LABELS, ttft_s or 0.0)
        self.clock.now_s += SLO.interval_s
        self.guard.look()

    @property
    def limit(self) -> int:
        return self.governor.snapshot(self.clock()).limit.limit

    def kinds(self) -> list[str]:
        """Of the alerts so far."""
        return [f"{alert.kind.value} {alert.subject}" for alert in self.told]
