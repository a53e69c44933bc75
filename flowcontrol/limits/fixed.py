"""A limit that never moves by itself."""

from flowcontrol.limits.contract import Window


class FixedLimit:
    """For operators who measured their limit, and as the baseline of every comparison."""

    def propose(self, window: Window) -> float:
        return window.limit
