"""What a run is judged by."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.measure import percentile as nearest_rank
from benchmarks.simulation.run import Record, Sample, Stream
from benchmarks.simulation.scenarios import Phase, Scenario
from service.load.quantiles import jain

# A limit this close to the band counts as in it.
_BAND_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Band:
    """Constant limits with goodput within 3 % of the best one's. bounded: whether a higher one is worse."""

    best: int
    low: int
    high: int
    bounded: bool

    def holds(self, limit: int) -> bool:
        return self.reaches(limit) and limit <= math.ceil(self.high * (1 + _BAND_MARGIN))

    def reaches(self, limit: int) -> bool:
        """Whether it is not below."""
        return limit >= math.floor(self.low * (1 - _BAND_MARGIN))


@dataclass(frozen=True, slots=True)
class Course:
    """How the limit went in one phase; None for what cannot be said.

    settled_s: from the phase's start until the limit is in the band to stay; infinite for never. overshoot:
    most over the band, as a share of it, after it was first in it. steady_range: highest less lowest limit
    in the second half, or after settling where that is later, and steady_limit its median. turns_per_min:
    changes of the limit's direction in that time. below_s: time for which the limit was below the band at
    the start.
    """

    settled_s: float
    overshoot: float | None
    steady_range: int
    steady_limit: float
    turns_per_min: float
    below_s: float


def in_slo(scenario: Scenario, stream: Stream) -> bool:
    """First token in time (a prompt that takes long alone may take twice that), and tokens fast enough."""
    if stream.ttft_s is None or stream.ended_s is None:
        return False
    allowed_s = max(scenario.target_ttft_s, 2 * stream.solo_s)
    return stream.ttft_s <= allowed_s and (stream.between_tokens_s or 0.0) <= scenario.target_latency_s


def goodput(scenario: Scenario, record: Record, phase: Phase) -> float:
    """Output tokens of streams in SLO, by second, of those asked for in the phase."""
    streams = (one for one in record.streams if phase.start_s <= one.asked_s < phase.end_s)
    tokens = sum(one.request.output_tokens for one in streams if in_slo(scenario, one))
    return tokens / phase.length_s


def goodput_of_all(scenario: Scenario, record: Record) -> float:
    return goodput(scenario, record, Phase("", 0.0, scenario.duration_s))


def refused_share(record: Record) -> float:
    refused = sum(one.refused_s is not None for one in record.streams)
    return refused / len(record.streams) if record.streams else 0.0


def slo_share(scenario: Scenario, record: Record) -> float:
    """Of those that got a permit."""
    admitted = [one for one in record.streams if one.admitted_s is not None]
    return sum(in_slo(scenario, one) for one in admitted) / max(1, len(admitted))


def ttft_percentile(scenario: Scenario, record: Record, share: float) -> float:
    """Of the admitted whose target is target_ttft_s; the prompts of others take too long alone."""
    times = (
        math.inf if one.ttft_s is None else one.ttft_s
        for one in record.streams
        if one.admitted_s is not None and 2 * one.solo_s <= scenario.target_ttft_s
    )
    return percentile(times, share)


def between_tokens_percentile(record: Record, share: float) -> float:
    return percentile((x for x in (one.between_tokens_s for one in record.streams) if x is not None), share)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of them do not exceed; NaN of none."""
    ordered = sorted(values)
    return nearest_rank(ordered, share) if ordered else math.nan


def course(samples: Sequence[Sample], phase: Phase, band: Band) -> Course:
    seen = [one for one in samples if phase.start_s <= one.at_s < phase.end_s]
    outside = [one.at_s for one in seen if not band.holds(one.limit)]
    settled_s = outside[-1] - phase.start_s if outside else 0.0
    if seen and not band.holds(seen[-1].limit):
        settled_s = math.inf
    entered = next((index for index, one in enumerate(seen) if band.holds(one.limit)), None)
    overshoot = None
    if entered is not None and band.bounded:
        overshoot = max(0.0, max(one.limit for one in seen[entered:]) / band.high - 1)
    steady_s = phase.length_s / 2 if math.isinf(settled_s) else max(settled_s, phase.length_s / 2)
    steady = [one.limit for one in seen if one.at_s >= phase.start_s + steady_s]
    low_s = next((one.at_s for one in seen if band.reaches(one.limit)), math.inf)
    return Course(
        settled_s=settled_s,
        overshoot=overshoot,
        steady_range=max(steady) - min(steady),
        steady_limit=statistics.median(steady),
        turns_per_min=turns(steady) / (phase.length_s - steady_s) * 60,
        below_s=low_s - phase.start_s,
    )


def turns(limits: Sequence[int]) -> int:
    """How often the limit's movement changed direction."""
    moves = [after - before for before, after in pairwise(limits) if after != before]
    return sum((one > 0) != (other > 0) for one, other in pairwise(moves))


def refused_after_idle(scenario: Scenario, record: Record) -> int | None:
    """Of the first min_streams requests after the idle time, those refused within a second."""
    if scenario.idle_until_s is None:
        return None
    later = [one for one in record.streams if one.asked_s >= scenario.idle_until_s][: scenario.min_streams]
    until_s = scenario.idle_until_s + 1
    return sum(one.refused_s is not None and one.refused_s <= until_s for one in later)


def second_storm(scenario: Scenario, record: Record) -> float | None:
    """Most refusals in a later second by those in the first second of the storm."""
    if not scenario.retries:
        return None
    start_s = scenario.phases[-1].start_s
    times = (one.refused_s for one in record.streams if one.refused_s is not None)
    seconds = Counter(math.floor(at_s - start_s) for at_s in times)
    first = seconds.pop(0, 0)
    return max(seconds.values(), default=0) / first if first else 0.0


def fairness(scenario: Scenario, record: Record) -> float | None:
    """Jain's index of what each tenant got by its max-min fair share of what all got, in tokens."""
    if not scenario.noisy:
        return None
    asked: dict[str, float] = defaultdict(float)
    served: dict[str, float] = defaultdict(float)
    for one in record.streams:
        tokens = one.request.prompt_tokens + one.request.output_tokens
        asked[one.request.tenant] += tokens
        served[one.request.tenant] += tokens if one.ended_s is not None else 0
    shares = max_min_shares(asked, sum(served.values()))
    return jain([served[tenant] / share for tenant, share in shares.items()])


def max_min_shares(asked: Mapping[str, float], total: float) -> dict[str, float]:
    """Nobody gets more than asked for; what is left is shared equally among those who want more."""
    shares: dict[str, float] = {}
    for place, (name, wanted) in enumerate(sorted(asked.items(), key=lambda item: item[1])):
        shares[name] = min(wanted, total / (len(asked) - place))
        total -= shares[name]
    return shares
