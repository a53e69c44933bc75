"""A scenario with everybody in it: oracle, strategies and historic rules, on the same arrivals."""

import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from benchmarks.simulation.gates import Outcome, mean_goodput, outcome
from benchmarks.simulation.measures import Band, goodput_of_all
from benchmarks.simulation.oracle import Goodputs, Oracle, coarse_grid, fine_grid, make_oracle
from benchmarks.simulation.run import Record
from benchmarks.simulation.scenarios import SCENARIOS, Scenario
from benchmarks.simulation.setups import simulate_limits, simulate_strategy

# The name of a strategy, or constant limits by phase.
Setup = str | tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """outcomes: by setup, one for each seed. records: of the first seed, for plots. best: the oracle's."""

    scenario: Scenario
    oracle: Oracle
    best: Sequence[Outcome]
    outcomes: dict[str, Sequence[Outcome]]
    records: dict[str, Record]


def study(scenario: Scenario, setups: Sequence[str], seeds: Sequence[int], pool: Executor) -> Study:
    """Jobs go to the pool by the scenario's name: its functions cannot."""
    oracle = _find_oracle(scenario, seeds, pool)
    constant = max(oracle.tried, key=lambda limit: _of_all(scenario, oracle.tried[limit]))
    candidates: list[Setup] = list({oracle.limits(), (constant,)})
    everyone: list[Setup] = [*candidates, *setups]
    jobs = [(setup, seed) for setup in everyone for seed in seeds]
    results = pool.map(
        _run,
        [scenario.name] * len(jobs),
        [setup for setup, _ in jobs],
        [seed for _, seed in jobs],
        [oracle.bands] * len(jobs),
        [seed == seeds[0] for _, seed in jobs],
    )
    outcomes: dict[Setup, list[Outcome]] = {setup: [] for setup in everyone}
    records: dict[Setup, Record] = {}
    for (setup, _), (one, record) in zip(jobs, results, strict=True):
        outcomes[setup].append(one)
        if record is not None:
            records[setup] = record
    best = max(candidates, key=lambda setup: mean_goodput(outcomes[setup]))
    return Study(
        scenario,
        oracle,
        outcomes[best],
        {setup: outcomes[setup] for setup in setups},
        {**{setup: records[setup] for setup in setups}, "oracle": records[best]},
    )


def _find_oracle(scenario: Scenario, seeds: Sequence[int], pool: Executor) -> Oracle:
    tried: dict[int, Goodputs] = {}
    for grid in (coarse_grid, lambda _: fine_grid(tried)):
        _try(scenario, grid(scenario), seeds, pool, tried)
    return make_oracle(tried)


def _try(
    scenario: Scenario,
    limits: Iterable[int],
    seeds: Sequence[int],
    pool: Executor,
    tried: dict[int, Goodputs],
) -> None:
    jobs = [(limit, seed) for limit in limits for seed in seeds]
    names = [scenario.name] * len(jobs)
    results = pool.map(_goodputs, names, [limit for limit, _ in jobs], [seed for _, seed in jobs])
    by_limit: dict[int, list[Goodputs]] = {}
    for (limit, _), one in zip(jobs, results, strict=True):
        by_limit.setdefault(limit, []).append(one)
    for limit, each in by_limit.items():
        tried[limit] = tuple(statistics.fmean(phase) for phase in zip(*each, strict=True))


def _of_all(scenario: Scenario, goodputs: Goodputs) -> float:
    return sum(x * phase.length_s for x, phase in zip(goodputs, scenario.phases, strict=True))


def _goodputs(name: str, limit: int, seed: int) -> Goodputs:
    """Of each phase alone."""
    phases = [SCENARIOS[name].alone(phase) for phase in SCENARIOS[name].phases]
    return tuple(
        goodput_of_all(one, simulate_limits(one, (limit,), seed))
        if one.callers or one.arrivals(seed)
        else 0.0
        for one in phases
    )


def _run(
    name: str, setup: Setup, seed: int, bands: Sequence[Band | None], keep: bool
) -> tuple[Outcome, Record | None]:
    scenario = SCENARIOS[name]
    if isinstance(setup, str):
        record = simulate_strategy(scenario, setup, seed)
    else:
        record = simulate_limits(scenario, setup, seed)
    return outcome(scenario, record, bands), record if keep else None
