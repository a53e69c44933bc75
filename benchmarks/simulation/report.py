"""Tables of a study, and what the strategies come to over all."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.report import this_environment
from benchmarks.result import Cell, Result, Row
from benchmarks.simulation.gates import Outcome, Verdict, mean_goodput, over_seeds, verdicts
from benchmarks.simulation.setups import STRATEGIES
from benchmarks.simulation.study import Study

Verdicts = Mapping[str, Sequence[Verdict]]


def judge(study: Study) -> dict[str, list[Verdict]]:
    """The gates of each of our strategies."""
    names = [name for name in study.outcomes if name in STRATEGIES]
    return {
        name: verdicts(study.scenario, study.outcomes[name], study.best, study.outcomes) for name in names
    }


def as_result(study: Study, judged: Verdicts, default: str) -> Result:
    """A row for each setup; then bands, and the gates of the default strategy."""
    rows = [_row(study, "oracle", study.best)]
    rows += [_row(study, name, runs) for name, runs in study.outcomes.items()]
    ends: Row = {}
    for phase, band in zip(study.scenario.phases, study.oracle.bands, strict=True):
        if band is not None:
            high = f"{band.high}" if band.bounded else "any"
            ends[f"oracle's limit, {phase.name}"] = f"{band.best} ({band.low} to {high})"
    for one in judged.get(default, ()):
        ends[f"{default}: {one.gate} ({one.goal})"] = _told(one)
    for name, gates in judged.items():
        failed = [f"{one.gate} {_number(one)}" for one in gates if one.passed is False]
        ends[f"{name} fails"] = ", ".join(failed) or "nothing"
    return Result(f"simulation: {study.scenario.name}", this_environment(), rows, ends)


def _row(study: Study, name: str, runs: Sequence[Outcome]) -> Row:
    def mean(read: Callable[[Outcome], float]) -> float | None:
        return _finite(statistics.fmean(read(one) for one in runs))

    row: Row = {
        "setup": name,
        "goodput, tokens/s": mean(lambda one: one.goodput),
        "of the oracle's": mean_goodput(runs) / mean_goodput(study.best),
        "all tokens/s": mean(lambda one: one.tokens_per_s),
        "in SLO of admitted, %": mean(lambda one: 100 * one.in_slo),
        "refused, %": mean(lambda one: 100 * one.refused),
        "TTFT p50, s": mean(lambda one: one.ttft_p50_s),
        "TTFT p95, s": mean(lambda one: one.ttft_p95_s),
        "between tokens p95, ms": mean(lambda one: 1e3 * one.between_tokens_p95_s),
        "cache lost": mean(lambda one: one.evictions),
    }
    for place, phase in enumerate(study.scenario.phases):
        limits = [course.steady_limit for one in runs if (course := one.courses[place]) is not None]
        settled = [course.settled_s for one in runs if (course := one.courses[place]) is not None]
        if limits:
            row[f"limit, {phase.name}"] = statistics.median(limits)
            row[f"settled, {phase.name}, s"] = _finite(statistics.median(settled))
    for title, read in _SPECIAL.items():
        value = over_seeds(runs, read)
        if value is not None:
            row[title] = value
    return row


_SPECIAL: dict[str, Callable[[Outcome], float | None]] = {
    "fairness": lambda one: one.fairness,
    "second storm": lambda one: one.second_storm,
    "refused after idle": lambda one: one.refused_after_idle,
}


def _finite(value: float) -> float | None:
    """JSON knows no infinity; nor is there a time for what never comes."""
    return value if math.isfinite(value) else None


def _told(one: Verdict) -> Cell:
    if one.value is None:
        return "does not apply"
    note = f", {one.note}" if one.note else ""
    return f"{_number(one)}{note}: {'pass' if one.passed else 'FAIL'}"


def _number(one: Verdict) -> str:
    assert one.value is not None
    return "never" if math.isinf(one.value) else f"{one.value:.3g}"


def print_summary(results: Mapping[str, tuple[Study, Verdicts]]) -> None:
    """Goodput by the oracle's and gates failed, scenario by scenario."""
    names = list(next(iter(results.values()))[0].outcomes)
    table = Table(title="goodput / oracle's (gates failed)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("scenario", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for scenario, (study, judged) in results.items():
        cells = []
        for name in names:
            ratio = mean_goodput(study.outcomes[name]) / mean_goodput(study.best)
            failed = sum(one.passed is False for one in judged.get(name, ()))
            cells.append(f"{ratio:.2f}" + (f" ({failed})" if name in judged else ""))
        table.add_row(scenario, *cells)
    Console(width=120, highlight=False).print(table)
