"""The limit follows the ratio of target to load."""

from math import sqrt

from flowcontrol.limits.contract import Window

MIN_GRADIENT = 0.5
"""Of Gradient2 and Envoy: no window more than halves the limit that is aimed at."""
MAX_GRADIENT = 1.5
"""Below Envoy's 2: samples are few, and a stream that was admitted too many holds its place for long."""
SMOOTHING = 0.5
"""Share of the way to the new limit per interval, of Gradient2."""


class GradientLimit:
    """limit x target / load, clamped, with headroom of sqrt(limit), smoothed.

    In the spirit of Netflix Gradient2 and Envoy's adaptive concurrency, with two differences. Load is
    relative to a target and a modelled baseline; a measured minimum drifts up under lasting load, and
    probing it costs requests. And headroom shrinks to none as load reaches its target: added always,
    it outweighs a gradient slightly below 1, and the limit grows for ever under modest overload.
    """

    def propose(self, window: Window) -> float:
        load = window.load
        assert load is not None
        gradient = max(MIN_GRADIENT, 1 / max(load, 1 / MAX_GRADIENT))
        headroom = sqrt(window.limit) * max(0.0, 1 - load)
        aim = window.limit * gradient + headroom
        return window.limit + SMOOTHING * (aim - window.limit)
