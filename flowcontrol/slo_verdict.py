"""When an objective is breached, and when it is not any more."""

from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

from flowcontrol.slo_window import Events

BREACH_ABOVE, END_BELOW = 1.0, 0.9
"""Burn rates of the fast window between which a verdict stays what it is."""
CLEAR_BURN = 3.0
"""Burn rate of the fast window that needs no word of the slow one. With windows of 30 s and 300 s that is
30 % of what may go wrong in the slow window, used up in the fast one; for a 95th percentile, 15 % bad."""
CLEAR_SHARE = 0.25
"""The same where the budget is large: this part of the way from the budget to everything being bad. A median
cannot burn faster than 2; from 62.5 % bad it is clear."""
LEAST_BAD = 2
"""Bad events in a breach: with little traffic, one is more than any small budget, and no trend."""
DEVIATIONS = 2.0
"""Standard deviations beyond what the budget allows that are no chance."""
TELLING = 3.0
"""Bad events that the budget allows in a window from which good ones say something: with none among n, their
share is below 3/n with 95 % confidence (the rule of three)."""
LEAST_BUDGET = 1e-9
"""In place of none, so that burn rates are numbers."""


class Objective(StrEnum):
    """Closed set; the value is its name in status and metrics."""

    TTFT_P50 = "ttft_p50"
    TTFT_P95 = "ttft_p95"
    INTER_TOKEN_P95 = "inter_token_p95"
    REFUSAL_RATE = "refusal_rate"
    INFRASTRUCTURE_CANCELLATIONS = "infrastructure_cancellations"

    @property
    def is_time(self) -> bool:
        """Whether its values are times; otherwise they are shares."""
        return self in (Objective.TTFT_P50, Objective.TTFT_P95, Objective.INTER_TOKEN_P95)


class Verdict(StrEnum):
    UNKNOWN = "UNKNOWN"
    """Too few samples in the fast window. A breach that was found before may still be on."""
    MET = "MET"
    BREACHED = "BREACHED"


@dataclass(frozen=True, slots=True)
class Target:
    """One objective: at most the share `budget` of its events may be bad.

    target: seconds for times, where quantile is set and longer ones are bad; a share 0..1 for rates.
    """

    objective: Objective
    target: float
    budget: float
    quantile: float | None

    def burn(self, events: Events) -> float:
        """How fast the budget is used up; 1 is just as fast as allowed."""
        return events.bad / events.all / max(self.budget, LEAST_BUDGET) if events.all else 0.0

    def value(self, events: Events) -> float | None:
        """In the unit of the target; None without events."""
        if self.quantile is not None:
            return events.value
        return events.bad / events.all if events.all else None

    @property
    def clear_burn(self) -> float:
        budget = max(self.budget, LEAST_BUDGET)
        return min(CLEAR_BURN, 1 + CLEAR_SHARE * (1 / budget - 1))

    def beyond_chance(self, events: Events) -> bool:
        """Whether so many bad ones are unlikely if in truth their share is the budget."""
        mean = events.all * self.budget
        deviation = sqrt(mean * (1 - self.budget))
        return events.bad >= LEAST_BAD and events.bad > mean + DEVIATIONS * deviation


@dataclass(frozen=True, slots=True)
class ObjectiveSnapshot:
    """What was found at the last evaluation.

    target, fast, slow: seconds for times, a share 0..1 for rates. fast, slow: value over that window at the
    objective's quantile, or rate; with the burn rates None when the window has fewer than min_samples.
    samples: in the fast window. breached_since_s: None when no breach is on; with the verdict UNKNOWN it says
    that the breach found before has not been seen to end.
    """

    name: Objective
    target: float
    verdict: Verdict
    fast: float | None
    slow: float | None
    fast_burn: float | None
    slow_burn: float | None
    samples: int
    breached_since_s: float | None

    @property
    def burning(self) -> bool:
        """Whether it is breached and the fast window still says so."""
        return self.verdict is Verdict.BREACHED and (self.fast_burn or 0.0) > BREACH_ABOVE


class Judge:
    """The verdict on one objective, from one evaluation to the next.

    After the multiwindow, multi-burn-rate alerts of chapter 5 of the Google SRE workbook ("Alerting on
    SLOs"): the long window shows that it matters, the short one that it is still so. There a budget is for a
    month, and the fastest alert takes minutes; here an action is wanted within seconds, so besides their rule
    (both windows burn above 1) a fast window that is bad beyond doubt is a breach alone, or minutes of good
    samples would hide it. Either way the window that is the evidence must be so beyond chance.

    A breach ends when the fast window burns below END_BELOW. If that window is too small to show a share as
    low as the budget, the slow one must burn at 1 or below as well. A fast window with fewer than min_samples
    says nothing: neither begins a breach nor ends it, for an action may be why nothing comes. After a whole
    slow window of that the breach is over: nobody is hurt by it.
    """

    def __init__(self, target: Target, *, min_samples: int, slow_window_s: float, now_s: float) -> None:
        self._target = target
        self._min_samples = min_samples
        self._slow_window_s = slow_window_s
        self._since_s: float | None = None
        # When the fast window last had enough samples.
        self._known_s = now_s

    def evaluate(self, fast: Events, slow: Events, now_s: float) -> ObjectiveSnapshot:
        target = self._target
        fast_known, slow_known = fast.all >= self._min_samples, slow.all >= self._min_samples
        if fast_known:
            self._known_s = now_s
            if self._since_s is None:
                self._since_s = now_s if self._begins(fast, slow) else None
            elif self._ends(fast, slow):
                self._since_s = None
        elif now_s - self._known_s >= self._slow_window_s:
            self._since_s = None
        return ObjectiveSnapshot(
            name=target.objective,
            target=target.target,
            verdict=self._verdict(fast_known),
            fast=target.value(fast) if fast_known else None,
            slow=target.value(slow) if slow_known else None,
            fast_burn=target.burn(fast) if fast_known else None,
            slow_burn=target.burn(slow) if slow_known else None,
            samples=fast.all,
            breached_since_s=self._since_s,
        )

    def _verdict(self, known: bool) -> Verdict:
        if not known:
            return Verdict.UNKNOWN
        return Verdict.MET if self._since_s is None else Verdict.BREACHED

    def _begins(self, fast: Events, slow: Events) -> bool:
        target = self._target
        burn = target.burn(fast)
        if burn <= BREACH_ABOVE:
            return False
        if target.burn(slow) > BREACH_ABOVE and target.beyond_chance(slow):
            return True
        return burn > target.clear_burn and target.beyond_chance(fast)

    def _ends(self, fast: Events, slow: Events) -> bool:
        target = self._target
        if target.burn(fast) >= END_BELOW:
            return False
        return fast.all * target.budget >= TELLING or target.burn(slow) <= BREACH_ABOVE
