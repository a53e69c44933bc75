"""When requests arrive: generators of times in seconds since the run began, below duration_s, in order."""

import itertools
from collections.abc import Iterator
from random import Random

from service.load.options import ArrivalKind, BurstShape, LoadOptions


def arrivals(options: LoadOptions) -> Iterator[float]:
    """The times of an open loop. The same options give the same times. ValueError for a closed loop."""
    random = Random(f"{options.seed} arrivals")
    match options.arrivals:
        case ArrivalKind.POISSON:
            return poisson(options.rate_per_s, options.duration_s, random)
        case ArrivalKind.BURST:
            return bursts(options.rate_per_s, options.duration_s, options.burst, random)
        case ArrivalKind.CONSTANT:
            return constant(options.rate_per_s, options.duration_s)
        case ArrivalKind.CLOSED:
            raise ValueError("the requests of a closed loop come when callers are free")


def constant(rate_per_s: float, duration_s: float) -> Iterator[float]:
    """Evenly, the first at once."""
    # Not summed up: the error of a sum grows with the number of arrivals.
    times = (number / rate_per_s for number in itertools.count())
    return itertools.takewhile(lambda time_s: time_s < duration_s, times)


def poisson(rate_per_s: float, duration_s: float, random: Random) -> Iterator[float]:
    """Independent of each other: gaps are exponential with mean 1 / rate_per_s."""
    times = (load / rate_per_s for load in _unit_poisson(random))
    return itertools.takewhile(lambda time_s: time_s < duration_s, times)


def bursts(rate_per_s: float, duration_s: float, shape: BurstShape, random: Random) -> Iterator[float]:
    """Poisson with a rate that follows the square wave."""
    times = (_time_of(load, rate_per_s, shape) for load in _unit_poisson(random))
    return itertools.takewhile(lambda time_s: time_s < duration_s, times)


def expected(options: LoadOptions) -> float:
    """Mean number of arrivals of an open loop."""
    if options.arrivals is not ArrivalKind.BURST:
        return options.rate_per_s * options.duration_s
    shape = options.burst
    periods, rest_s = divmod(options.duration_s, shape.period_s)
    burst_s = periods * shape.burst_s + max(0.0, rest_s - (shape.period_s - shape.burst_s))
    return options.rate_per_s * (options.duration_s + (shape.factor - 1) * burst_s)


def _unit_poisson(random: Random) -> Iterator[float]:
    """Times of a Poisson process with rate 1."""
    return itertools.accumulate(random.expovariate(1.0) for _ in itertools.repeat(None))


def _time_of(load: float, rate_per_s: float, shape: BurstShape) -> float:
    """When the wave's rate adds up to `load` arrivals.

    Time change: a Poisson process of rate 1, taken through the inverse of the integral of a rate, has that
    rate (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7).
    """
    calm_s = shape.period_s - shape.burst_s
    calm_load = rate_per_s * calm_s
    burst_rate_per_s = rate_per_s * shape.factor
    period, rest = divmod(load, calm_load + burst_rate_per_s * shape.burst_s)
    begin_s = period * shape.period_s
    if rest < calm_load:
        return begin_s + rest / rate_per_s
    return begin_s + calm_s + (rest - calm_load) / burst_rate_per_s
