"""The best constant limit, found by trying: what a strategy is measured against."""

import math
from dataclasses import dataclass

from benchmarks.simulation.measures import Band
from benchmarks.simulation.scenarios import Scenario

# Goodput by phase of one constant limit, on the scenario's arrivals.
Goodputs = tuple[float, ...]

_IN_BAND = 0.97
# Limits tried between the neighbours of the coarse grid where it matters.
_FINE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Oracle:
    """bands: for each phase; None where no limit gives any goodput. tried: goodput by limit and phase."""

    bands: tuple[Band | None, ...]
    tried: dict[int, Goodputs]

    def limits(self) -> tuple[int, ...]:
        """The best of each phase; a phase without a band keeps the one before."""
        limits: list[int] = []
        for band in self.bands:
            limits.append(band.best if band is not None else limits[-1])
        return tuple(limits)


def coarse_grid(scenario: Scenario) -> list[int]:
    """From min_streams to max_streams, each about 40 % more than the one before."""
    low, high = scenario.min_streams, scenario.max_streams
    steps = math.ceil(math.log(high / low, 1.4))
    return sorted({round(low * (high / low) ** (step / steps)) for step in range(steps + 1)})


def fine_grid(tried: dict[int, Goodputs]) -> list[int]:
    """Around the best limit and the edges of the band of each phase."""
    limits = sorted(tried)
    wanted: set[int] = set()
    for phase in range(len(tried[limits[0]])):
        band = _band(tried, phase)
        if band is not None:
            for limit in (band.best, band.low, band.high):
                place = limits.index(limit)
                wanted |= _between(limits[max(0, place - 1)], limit)
                wanted |= _between(limit, limits[min(len(limits) - 1, place + 1)])
    return sorted(wanted - set(limits))


def make_oracle(tried: dict[int, Goodputs]) -> Oracle:
    phases = len(next(iter(tried.values())))
    return Oracle(tuple(_band(tried, phase) for phase in range(phases)), tried)


def _between(low: int, high: int) -> set[int]:
    return {round(low + (high - low) * step / _FINE_STEPS) for step in range(_FINE_STEPS + 1)}


def _band(tried: dict[int, Goodputs], phase: int) -> Band | None:
    """From the least to the largest limit that is nearly as good as the best: in between dips are noise."""
    limits = sorted(tried)
    values = [tried[limit][phase] for limit in limits]
    best = max(range(len(limits)), key=values.__getitem__)
    if not values[best]:
        return None
    good = [limit for limit, value in zip(limits, values, strict=True) if value >= _IN_BAND * values[best]]
    return Band(limits[best], good[0], good[-1], bounded=good[-1] < limits[-1])
