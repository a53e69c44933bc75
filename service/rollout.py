"""Which features are on for which streams, how the arms compare, and what a change of a feature sets off."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flowcontrol.admission.governor import Governor
from flowcontrol.arm_comparison import ArmComparison, ComparisonSnapshot, Verdict, VerdictKind
from flowcontrol.features import FeatureName, FeatureSnapshot, FeatureState, FeatureTable
from flowcontrol.limits.contract import LimitOptions, StrategyName
from service.options import RolloutOptions


@dataclass(frozen=True, slots=True)
class Regression:
    """A canary arm that does worse than its control arm."""

    feature: FeatureName
    verdict: Verdict


class AdaptiveLimits:
    """Switches the limit on streams in flight between what was configured and one that stays."""

    def __init__(
        self,
        governor: Governor,
        configured: LimitOptions,
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """changed: called after each change, when more streams may start. clock: the governor's."""
        self._governor = governor
        self._configured = configured
        self._changed = changed
        self._clock = clock

    def fix(self) -> None:
        """Hold the limit where it last stood under load with times on target."""
        good = self._governor.last_good_limit
        now = self._governor.options.limits
        self._configure(replace(now, strategy=StrategyName.FIXED, min_streams=good, max_streams=good))

    def follow(self) -> None:
        """Let the limit follow the load as it is configured to."""
        self._configure(self._configured)

    def _configure(self, limits: LimitOptions) -> None:
        gate = self._governor.options.gate
        self._governor.configure(
            limits,
            target_ttft_s=gate.target_ttft_s,
            target_latency_s=gate.target_latency_s,
            now_s=self._clock(),
        )
        self._changed()


class Rollout:
    """Every change of a feature goes through here, be it an operator's or the server's own.

    table: who is in which arm. comparison: to be told of the streams of both; it is begun with each canary.
    """

    def __init__(
        self,
        options: RolloutOptions,
        governor: Governor,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """changed: called when more streams may start. clock: the governor's. Raises CanaryError."""
        self.table = FeatureTable(options.features, clock())
        self.comparison = ArmComparison(options.min_samples)
        self._rolls_back = options.roll_back
        self._limits = AdaptiveLimits(governor, options.limits, changed, clock)
        self._clock = clock
        self._kept: dict[FeatureName, ComparisonSnapshot] = {}
        if self.table.canary is not None:
            self.comparison.begin()

    def promote(self, name: FeatureName, reason: str) -> None:
        """On for every stream that begins from now on."""
        before = self.table.state(name)
        self._kept.pop(name, None)
        self.table.promote(name, reason, self._clock())
        self._settle(name, before)

    def roll_back(self, name: FeatureName, reason: str) -> None:
        """On for no stream that begins from now on. The comparison of its canary, if it had one, is kept."""
        before = self.table.state(name)
        if before is FeatureState.CANARY:
            self._kept[name] = self.comparison.snapshot()
        self.table.roll_back(name, reason, self._clock())
        self._settle(name, before)

    def set_canary(self, name: FeatureName, percent: float, reason: str) -> None:
        """On for this share of the streams that begin from now on. CanaryError: no change was made."""
        before = self.table.state(name)
        self.table.set_canary(name, percent, reason, self._clock())
        self._kept.pop(name, None)
        self.comparison.begin()
        self._settle(name, before)

    def regression(self) -> Regression | None:
        """What is to be rolled back now, if features may be rolled back by the server itself."""
        name = self.table.canary
        if name is None or not self._rolls_back:
            return None
        verdict = self.comparison.verdict()
        return Regression(name, verdict) if verdict.kind is VerdictKind.WORSE else None

    def snapshot(self) -> list[tuple[FeatureSnapshot, ComparisonSnapshot | None]]:
        """Each feature in the order of their names, with the arms of its canary, running or rolled back."""
        running = self.table.canary
        return [
            (one, self.comparison.snapshot() if one.name is running else self._kept.get(one.name))
            for one in self.table.snapshot()
        ]

    def _settle(self, name: FeatureName, before: FeatureState) -> None:
        """Do what follows from a change."""
        if self.table.canary is None:
            self.comparison.end()
        after = self.table.state(name)
        if name is FeatureName.ADAPTIVE_LIMITS and after is not before:
            if after is FeatureState.ON:
                self._limits.follow()
            elif before is FeatureState.ON:
                self._limits.fix()
