"""Steps of a fixed number of streams at thresholds of utilisation and load."""

from flowcontrol.limits.contract import LimitOptions, Window

STEP_UP = 5.0
"""Streams: a limit that holds requests back opens within a few intervals."""
STEP_DOWN = 2.0
"""Streams: less than up, because a limit too low is felt at once, and one too high only under load."""
FLOOR = 1.0
"""A proposal is above 0 at any limit."""


class ThresholdLimit:
    """Up when most of the limit is in use and load is below target; down when too slow, or hardly in use.

    The rule is the common one of autoscalers. Being too slow lowers the limit at any utilisation:
    without that, full use of a slow engine would keep it. How far idleness may lower it is the
    controller's to say.
    """

    def __init__(self, options: LimitOptions) -> None:
        self._scale_up = options.scale_up_threshold
        self._scale_down = options.scale_down_threshold

    def propose(self, window: Window) -> float:
        load = window.load
        assert load is not None
        if load > 1 or window.utilisation < self._scale_down:
            return max(FLOOR, window.limit - STEP_DOWN)
        if load < 1 and window.utilisation > self._scale_up:
            return window.limit + STEP_UP
        return window.limit
