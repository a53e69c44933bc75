"""Watches the objectives and the arms of a canary, and acts on what it finds: the server's own operator."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from engine.model_host import ModelHost
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.snapshot import GovernorSnapshot
from flowcontrol.reasons import Reason
from flowcontrol.remediation.actions import Event, Step
from flowcontrol.remediation.contract import RemediationSnapshot
from flowcontrol.remediation.policy import Policy
from flowcontrol.remediation.signals import FeatureSignal
from flowcontrol.slo import SloGuard, SloSnapshot
from flowcontrol.slo_verdict import Verdict
from flowcontrol.sustained import News, SustainedBreaches
from service.guard_actions import Actions
from service.guard_news import Newsroom
from service.guard_signals import SignalReader
from service.observation import Cause, Observation, StreamLabels, StreamOutcome
from service.rollout import Rollout

_log = structlog.get_logger("penstock.guard")


@dataclass(frozen=True, slots=True)
class GuardSnapshot:
    """slo: None while objectives are not watched. remediation: None while nothing is done about breaches."""

    slo: SloSnapshot | None
    remediation: RemediationSnapshot | None


class Guard:
    """Is told of streams as a StreamSink; `keep_watching` must run beside the server.

    slo, policy: None where the configuration has them off. kv_use: share of the memory for KV caches in use.
    clock: the governor's, too. All on the event loop.
    """

    def __init__(
        self,
        slo: SloGuard | None,
        policy: Policy | None,
        *,
        governor: Governor,
        models: ModelHost,
        rollout: Rollout,
        actions: Actions,
        news: Newsroom,
        sustained: SustainedBreaches,
        kv_use: Callable[[GovernorSnapshot], float],
        clock: Callable[[], float],
    ) -> None:
        self._slo = slo
        self._policy = policy
        self._governor = governor
        self._models = models
        self._rollout = rollout
        self._actions = actions
        self._news = news
        self._sustained = sustained
        self._kv_use = kv_use
        self._clock = clock
        self._reader = SignalReader()

    def first_token(self, labels: StreamLabels, ttft_s: float) -> None:
        self._rollout.comparison.first_token(labels.arm, ttft_s)
        # Bulk is work that can wait, and does so in the queue while others are served.
        if self._slo is not None and labels.service_class is not ServiceClass.BULK:
            self._slo.first_token(ttft_s)

    def gaps(self, labels: StreamLabels, gaps_s: Sequence[float]) -> None:
        self._rollout.comparison.gaps(labels.arm, gaps_s)
        if self._slo is not None:
            self._slo.gaps(gaps_s)

    def refused(self, labels: StreamLabels | None, reason: Reason) -> None:
        """Refusals are read from the governor, with the number of requests that they are a share of."""

    def ended(self, outcome: StreamOutcome) -> None:
        infrastructure = outcome.cause is Cause.SERVER
        gaps = outcome.completion_tokens - 1
        self._rollout.comparison.ended(
            outcome.labels.arm,
            infrastructure=infrastructure,
            token_s=outcome.decode_s / gaps if gaps > 0 and outcome.decode_s else None,
        )
        if self._slo is not None:
            self._slo.ended(infrastructure)

    async def keep_watching(self, observation: Observation, interval_s: float) -> None:
        """Look once in each interval, until cancelled. observation: is flushed before."""
        pause_s = self._pause_s(interval_s)
        while True:
            await asyncio.sleep(pause_s)
            observation.flush()
            try:
                self.look()
                pause_s = self._pause_s(interval_s)
            except Exception:
                # A defect here must not end the watch, nor anything else of the server.
                _log.exception("look failed")
                # What was due may still be.
                pause_s = interval_s

    def _pause_s(self, interval_s: float) -> float:
        if self._slo is None:
            return interval_s
        return max(self._slo.next_deadline() - self._clock(), 0.0)

    def look(self) -> None:
        """Evaluate, tell what is new, and act."""
        now_s = self._clock()
        worse = self._worse_features()
        if self._slo is not None:
            governed = self._governor.snapshot(now_s)
            requests = self._reader.requests(governed)
            self._slo.requests(requests.asked, requests.refused)
            found = self._slo.evaluate(now_s)
            self._tell_breaches(found, now_s)
            if self._policy is not None:
                self._act(self._policy, found, governed, worse, now_s)
        # Where the policy takes no actions, a canary is rolled back all the same: that has its own option.
        for feature in self._worse_features():
            self._roll_back(feature)

    def _act(
        self,
        policy: Policy,
        found: SloSnapshot,
        governed: GovernorSnapshot,
        worse: tuple[FeatureSignal, ...],
        now_s: float,
    ) -> None:
        before = policy.snapshot(now_s)
        signals = self._reader.read(
            found,
            governed,
            self._models.models(),
            kv_use=self._kv_use(governed),
            # It is rolled back in a dry run, too: not to be told as something that would have been done.
            worse=() if before.dry_run else worse,
            now_s=now_s,
        )
        for step in policy.decide(signals, now_s):
            policy.report(step, self._execute(step), now_s)
        self._tell_events(before, policy.snapshot(now_s))

    def _execute(self, step: Step) -> str | None:
        """What went wrong, or None."""
        try:
            self._actions.execute(step)
        except Exception as error:
            _log.warning(
                "step failed", step=step.kind, action=step.action, subject=step.subject, exc_info=True
            )
            return str(error) or type(error).__name__
        return None

    def _worse_features(self) -> tuple[FeatureSignal, ...]:
        regression = self._rollout.regression()
        return () if regression is None else (FeatureSignal(regression.feature, regression.verdict.text),)

    def _roll_back(self, feature: FeatureSignal) -> None:
        self._actions.roll_back(feature.name, feature.worse)
        self._news.rolled_back(feature.name, feature.worse)

    def _tell_breaches(self, found: SloSnapshot, now_s: float) -> None:
        for objective in found.objectives:
            if objective.verdict is Verdict.UNKNOWN and objective.breached_since_s is not None:
                continue  # It has not been seen to end.
            breached = objective.breached_since_s is not None
            told = self._sustained.look(objective.name, breached=breached, now_s=now_s)
            if told is not None:
                self._news.breach(objective, ended=told.news is News.BREACH_ENDED, lasted_s=told.lasted_s)

    def _tell_events(self, before: RemediationSnapshot, after: RemediationSnapshot) -> None:
        for event in reversed(_new(before.events, after.events)):
            self._news.event(event)
        if after.suspended and not before.suspended:
            self._news.suspended(after.suspended)

    def snapshot(self) -> GuardSnapshot:
        return GuardSnapshot(
            slo=None if self._slo is None else self._slo.snapshot(),
            remediation=None if self._policy is None else self._policy.snapshot(self._clock()),
        )


def _new(before: Sequence[Event], after: Sequence[Event]) -> list[Event]:
    """Those of `after`, newest first, that came since; by identity, for equal ones may come again."""
    known = {id(event) for event in before}
    return [event for event in after if id(event) not in known]
