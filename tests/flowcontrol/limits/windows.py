"""Options, windows and the intervals of a controller, for the tests of this folder."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from flowcontrol.limits.contract import LimitOptions, StrategyName, Window
from flowcontrol.limits.controller import AdaptiveLimit

EVERY = pytest.mark.parametrize("name", StrategyName)
MOVING = pytest.mark.parametrize("name", [name for name in StrategyName if name != StrategyName.FIXED])

OPTIONS = LimitOptions(
    strategy=StrategyName.PID,
    min_streams=1,
    max_streams=64,
    interval_s=1.0,
    min_samples=5,
    scale_up_threshold=0.8,
    scale_down_threshold=0.3,
)


def options(strategy: StrategyName) -> LimitOptions:
    return replace(OPTIONS, strategy=strategy)


def window(load: float, *, limit: float = 20.0, utilisation: float = 0.5) -> Window:
    """Enough samples, all of this load. utilisation is exact where limit x utilisation is whole."""
    return Window(
        limit=limit,
        in_flight=round(limit * utilisation),
        waited=False,
        samples=10,
        ttft_load=load,
        latency_load=None,
        dropped=0,
    )


START_S = 100.0


def made(
    name: StrategyName = StrategyName.PID, *, initial: int = 20, bounds: tuple[int, int] = (1, 64)
) -> AdaptiveLimit:
    min_streams, max_streams = bounds
    chosen = replace(options(name), min_streams=min_streams, max_streams=max_streams)
    return AdaptiveLimit(chosen, initial=initial, now_s=START_S)


def interval(
    limit: AdaptiveLimit,
    loads: Sequence[float] = (),
    *,
    in_flight: int | None = None,
    waiting: bool = True,
    latency: float | None = None,
    dropped: int = 0,
    admitted_s: float | None = None,
) -> bool:
    """One interval up to its adjustment: all of the limit in flight and more waiting, unless told.

    At the end of it all are gone, so that the next one has its own.
    """
    limit.occupancy(limit.limit if in_flight is None else in_flight, waiting=waiting)
    for load in loads:
        limit.sample(load, admitted_s=limit.changed_s if admitted_s is None else admitted_s)
    for _ in range(dropped):
        limit.dropped()
    if latency is not None:
        limit.latency(latency)
    limit.occupancy(0, waiting=False)
    return limit.adjust(limit.next_deadline())


def idle(limit: AdaptiveLimit, *loads: float) -> bool:
    """An interval with next to nothing in flight."""
    return interval(limit, loads, in_flight=min(1, limit.limit // 3), waiting=False)


def cut(limit: AdaptiveLimit, below: int) -> None:
    """Too slow until the limit is below that."""
    while limit.limit >= below:
        interval(limit, [3.0] * 10)
