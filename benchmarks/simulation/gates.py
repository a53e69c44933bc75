"""What a strategy must reach in each scenario."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.simulation import measures
from benchmarks.simulation.measures import Band, Course
from benchmarks.simulation.run import Record
from benchmarks.simulation.scenarios import Scenario
from benchmarks.simulation.setups import HISTORIC

INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run comes to. courses: by phase; None for a phase without a band."""

    goodput: float
    tokens_per_s: float
    refused: float
    in_slo: float
    ttft_p50_s: float
    ttft_p95_s: float
    between_tokens_p95_s: float
    courses: tuple[Course | None, ...]
    refused_after_idle: int | None
    second_storm: float | None
    fairness: float | None
    evictions: int


def outcome(scenario: Scenario, record: Record, bands: Sequence[Band | None]) -> Outcome:
    courses = (
        None if band is None else measures.course(record.samples, phase, band)
        for phase, band in zip(scenario.phases, bands, strict=True)
    )
    tokens = sum(one.request.output_tokens for one in record.streams if one.ended_s is not None)
    return Outcome(
        goodput=measures.goodput_of_all(scenario, record),
        tokens_per_s=tokens / scenario.duration_s,
        refused=measures.refused_share(record),
        in_slo=measures.slo_share(scenario, record),
        ttft_p50_s=measures.ttft_percentile(scenario, record, 0.5),
        ttft_p95_s=measures.ttft_percentile(scenario, record, 0.95),
        between_tokens_p95_s=measures.between_tokens_percentile(record, 0.95),
        courses=tuple(courses),
        refused_after_idle=measures.refused_after_idle(scenario, record),
        second_storm=measures.second_storm(scenario, record),
        fairness=measures.fairness(scenario, record),
        evictions=record.evictions,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """value: None where the gate does not apply. passed: None then. note: such as a tie."""

    gate: str
    goal: str
    value: float | None
    passed: bool | None
    note: str = ""


def over_seeds(runs: Sequence[Outcome], read: Callable[[Outcome], float | None]) -> float | None:
    """The median over seeds; None where it cannot be said for any."""
    values = [value for value in map(read, runs) if value is not None]
    return statistics.median(values) if values else None


def mean_goodput(runs: Sequence[Outcome]) -> float:
    return statistics.fmean(one.goodput for one in runs)


def verdicts(
    scenario: Scenario,
    runs: Sequence[Outcome],
    oracle: Sequence[Outcome],
    historic: Mapping[str, Sequence[Outcome]],
) -> list[Verdict]:
    """Of one strategy; runs: by seed, and the same seeds for the others."""

    def at_most(gate: str, most: float, unit: str, value: float | None) -> Verdict:
        goal = f"<= {most:g}{unit}"
        return Verdict(gate, goal, value, None if value is None else value <= most)

    def median(read: Callable[[Outcome], float | None]) -> float | None:
        return over_seeds(runs, read)

    refused_more = 100 * (
        statistics.fmean(one.refused for one in runs) - statistics.fmean(one.refused for one in oracle)
    )
    of_oracle = mean_goodput(runs) / mean_goodput(oracle)
    fair = median(lambda one: one.fairness)
    idle = [one.refused_after_idle for one in runs if one.refused_after_idle is not None]
    return [
        at_most("settling", 10, " intervals", median(_worst(lambda one: one.settled_s / INTERVAL_S))),
        at_most("overshoot", 25, " %", median(_worst(_overshoot_percent))),
        at_most("steady range", 1, " of allowed", median(_worst(_range_of_allowed))),
        at_most("turns", 2, "/min", median(_worst(lambda one: one.turns_per_min))),
        at_most("refused - oracle's", 3, " points", refused_more),
        Verdict("goodput / oracle's", ">= 0.9", of_oracle, of_oracle >= 0.9),
        at_most("p95 TTFT", 1.2, " x target", median(lambda one: _ttft_of_target(scenario, one))),
        at_most("refused after idle", 0, "", max(idle) if idle else None),
        at_most("back after a fall", 5, " s", median(lambda one: _back_s(scenario, one))),
        Verdict("fairness", ">= 0.9", fair, None if fair is None else fair >= 0.9),
        at_most("second storm", 0.5, " of the first", median(lambda one: one.second_storm)),
        *(_against(name, runs, historic[name]) for name in HISTORIC if name in historic),
    ]


def _worst(read: Callable[[Course], float | None]) -> Callable[[Outcome], float | None]:
    """Of the phases."""

    def of(one: Outcome) -> float | None:
        values = [read(phase) for phase in one.courses if phase is not None]
        return max((value for value in values if value is not None), default=None)

    return of


def _overshoot_percent(one: Course) -> float | None:
    return None if one.overshoot is None else 100 * one.overshoot


def _range_of_allowed(one: Course) -> float:
    """Highest less lowest limit by what may be: 2 streams or 10 %."""
    return one.steady_range / max(2.0, 0.1 * one.steady_limit)


def _ttft_of_target(scenario: Scenario, one: Outcome) -> float | None:
    return None if math.isnan(one.ttft_p95_s) else one.ttft_p95_s / scenario.target_ttft_s


def _back_s(scenario: Scenario, one: Outcome) -> float | None:
    """From the fall of load until the limit is not below what the load then needs."""
    phases = zip(scenario.phases, one.courses, strict=True)
    after = (course for phase, course in phases if phase.start_s in scenario.falls_s)
    return max((course.below_s for course in after if course is not None), default=None)


def _against(name: str, runs: Sequence[Outcome], others: Sequence[Outcome]) -> Verdict:
    """Goodput at least that of a historic rule; within 2 % is a tie."""
    other = mean_goodput(others)
    ratio = mean_goodput(runs) / other if other else math.inf
    note = "better" if ratio > 1.02 else "tie" if ratio >= 0.98 else "worse"
    return Verdict(f"goodput / {name}", ">= 0.98", ratio, ratio >= 0.98, note)
