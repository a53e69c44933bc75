"""What is compared: strategies, historic rules, and constant limits behind the same governor."""

from collections.abc import Callable
from random import Random
from typing import cast

from benchmarks.simulation.historic import Heuristic, HistoricLimit, MillisecondPid
from benchmarks.simulation.options import constants, governor_options, limit_options
from benchmarks.simulation.run import Record, Run
from benchmarks.simulation.scenarios import Scenario
from flowcontrol.admission.governor import Governor
from flowcontrol.limits.contract import StrategyName
from flowcontrol.limits.controller import AdaptiveLimit

STRATEGIES: tuple[str, ...] = tuple(StrategyName)
_RULES = {"heuristic": Heuristic, "ms-pid": MillisecondPid}
_QUEUED = " + queue"
# As they were shipped: no queue, no gate. And behind ours, for what the rule alone is worth.
HISTORIC: tuple[str, ...] = ("heuristic", "ms-pid", f"heuristic{_QUEUED}", f"ms-pid{_QUEUED}")


def simulate_strategy(scenario: Scenario, name: str, seed: int) -> Record:
    """One of STRATEGIES or HISTORIC."""
    if name in STRATEGIES:
        options = governor_options(scenario, limit_options(scenario, StrategyName(name)))
        return Run(scenario, Governor(options, now_s=0.0, chance=_chance(seed)), seed=seed).run()
    limits = limit_options(scenario, StrategyName.FIXED)
    rule = _RULES[name.removesuffix(_QUEUED)]()
    historic = HistoricLimit(limits, rule, scenario.initial_streams, next_s=rule.interval_s)
    queued = name.endswith(_QUEUED)
    options = governor_options(scenario, limits, queue=queued)
    governor = Governor(options, now_s=0.0, chance=_chance(seed), limiter=cast(AdaptiveLimit, historic))
    return Run(scenario, governor, seed=seed, historic=historic, places=queued).run()


def simulate_limits(scenario: Scenario, streams: tuple[int, ...], seed: int) -> Record:
    """A constant limit for each phase; one for all when there is but one."""
    fixed = limit_options(scenario, StrategyName.FIXED)
    options = governor_options(scenario, fixed, initial_streams=streams[0])
    later = zip(scenario.phases[1:], streams[1:], strict=False)
    limits = [(phase.start_s, options) for phase, limit in later for options in constants(scenario, limit)]
    governor = Governor(options, now_s=0.0, chance=_chance(seed))
    return Run(scenario, governor, seed=seed, limits=limits).run()


def _chance(seed: int) -> Callable[[], float]:
    return Random(f"retry {seed}").random
